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


def may_be_due(now: int, fresh_until: int, cost: int, ttl: float, beta: float) -> bool:
    """Whether `is_due` could say yes: asked where there is no time for a logarithm."""
    return fresh_until - now <= _head_start(cost, ttl, beta) * _FARTHEST


def is_due(now: int, fresh_until: int, cost: int, ttl: float, beta: float) -> bool:
    """Whether this reader should refresh; times in milliseconds, `ttl` in seconds."""
    if not may_be_due(now, fresh_until, cost, ttl, beta):
        return False
    head_start = _head_start(cost, ttl, beta)
    return -head_start * math.log(1 - random.random()) >= fresh_until - now


def _head_start(cost: int, ttl: float, beta: float) -> float:
    # A loader that is slow beside its ttl would otherwise be refreshed by every read.
    return min(cost * beta, ttl * 1000 / 4)
