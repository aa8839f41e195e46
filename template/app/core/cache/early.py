"""When to compute a popular entry anew before it expires.

XFetch, from "Optimal Probabilistic Cache Stampede Prevention" (Vattani, Chierichetti, Lowenstein;
VLDB 2015): every reader draws a random head start, proportional to what the value cost to compute;
the more readers there are, the earlier one of them wins. Here the winner refreshes in the
background under the lease, so nobody waits and one process does it.
"""

import math
import random

# exp(-15) of all draws would reach further: reads that are not near expiry skip the logarithm.
_FARTHEST = 15


def head_start(cost: int, ttl: float, beta: float) -> float:
    """The mean of what readers draw, in milliseconds like `cost`; `ttl` in seconds."""
    # A loader that is slow beside its ttl would otherwise be refreshed by every read.
    return min(cost * beta, ttl * 1000 / 4)


def calm_until(fresh_until: int, mean: float) -> int:
    """The moment before which no reader need draw; all in milliseconds."""
    return fresh_until - math.ceil(mean * _FARTHEST)


def is_due(left: int, mean: float) -> bool:
    """Whether this reader's head start reaches as far as the `left` milliseconds until expiry."""
    return -mean * math.log(1 - random.random()) >= left
