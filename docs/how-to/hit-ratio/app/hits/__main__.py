"""Print how many reads of each policy were hits: `python -m app.hits http://127.0.0.1:8000`."""

import sys
from collections import Counter
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

HITS = {"hit", "near", "stale"}


def hit_ratios(metrics: str) -> dict[str, float]:
    """Return the share of hits of each policy that was read, from the text of `/metrics`."""
    hits, reads = Counter[str](), Counter[str]()
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "cache_reads_total":
                reads[sample.labels["policy"]] += int(sample.value)
                if sample.labels["outcome"] in HITS:
                    hits[sample.labels["policy"]] += int(sample.value)
    return {policy: hits[policy] / count for policy, count in reads.items() if count}


if __name__ == "__main__":
    with urlopen(f"{sys.argv[1]}/metrics") as answer:
        for policy, ratio in sorted(hit_ratios(answer.read().decode()).items()):
            print(f"{policy:30} {ratio:4.0%}")
