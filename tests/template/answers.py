"""The answers that copier.yml allows: all combinations, and a few that hold every pair."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
QUESTIONS: dict[str, dict[str, Any]] = {
    name: spec for name, spec in CONFIG.items() if not name.startswith("_")
}

Answers = dict[str, str | bool]
Pair = frozenset[tuple[str, str | bool]]


def options(name: str) -> list[str | bool]:
    """Every answer to the question `name`, its default first; empty if anything may be answered."""
    spec = QUESTIONS[name]
    choices = spec.get("choices", [])
    found = list(choices.values() if isinstance(choices, dict) else choices)
    return sorted(found, key=lambda option: option != spec["default"])


def closed_questions(*, asked_only: bool) -> dict[str, list[str | bool]]:
    """The questions with a fixed set of answers, and these answers."""
    return {
        name: found
        for name, spec in QUESTIONS.items()
        if (found := options(name)) and (spec.get("ask", True) or not asked_only)
    }


def combined(closed: dict[str, list[str | bool]]) -> list[Answers]:
    return [dict(zip(closed, chosen, strict=True)) for chosen in product(*closed.values())]


def every_combination() -> list[Answers]:
    """All combinations of the asked questions, and each answer to one that is not asked."""
    asked, every = closed_questions(asked_only=True), closed_questions(asked_only=False)
    defaults = default_answers()
    found = [defaults | answers for answers in combined(asked)]
    for name in every.keys() - asked.keys():
        found += [defaults | {name: answer} for answer in every[name][1:]]
    return found


def pairs_of(answers: Answers) -> Iterator[Pair]:
    return map(frozenset, combinations(answers.items(), 2))


def features() -> list[str]:
    """The parts of a service that it may have or not: the yes-or-no questions about them."""
    return [name for name, spec in QUESTIONS.items() if spec["type"] == "bool" and name != "github"]


def feature_sets() -> list[Answers]:
    """Every feature, none of them, and all but one."""
    every: Answers = dict.fromkeys(features(), True)
    return [every, dict.fromkeys(every, False), *(every | {name: False} for name in every)]


@cache
def covering_profiles() -> list[Answers]:
    """A few combinations of the asked questions that hold every pair of answers at least once.

    And each of the `feature_sets`. Greedy: take the combination with the most that was not seen
    yet, the earliest one of equals, until none is left. The first one is the defaults.
    `python_version` is not among them: a machine has not all of these Pythons.
    """
    wanted = [frozenset(answers.items()) for answers in feature_sets()]
    candidates = [
        (candidate, {*pairs_of(candidate), *(part for part in wanted if part <= candidate.items())})
        for candidate in combined(closed_questions(asked_only=True))
    ]
    missing = set().union(*(held for _, held in candidates))
    chosen: list[Answers] = []
    while missing:
        best, held = max(candidates, key=lambda candidate: len(missing & candidate[1]))
        missing -= held
        chosen.append(best)
    return chosen


def is_covering(answers: Answers) -> bool:
    """Whether this is one of the profiles, or has an answer to a question that is not asked."""
    asked = {name: answers[name] for name in closed_questions(asked_only=True)}
    return answers != default_answers() | asked or asked in covering_profiles()


def default_answers() -> Answers:
    closed = closed_questions(asked_only=False)
    return {name: found[0] for name, found in closed.items()}


def named_in_exclude() -> list[str]:
    """Files and folders that an answer leaves out, or an update: paths in the service."""
    return paths_in(exclude_block())


def services_own() -> tuple[str, ...]:
    """Those of them that an update leaves alone: the service's own from its first day."""
    return tuple(paths_in(exclude_block().partition("_copier_operation == 'update'")[2]))


def exclude_block() -> str:
    [block] = [entry for entry in CONFIG["_exclude"] if "_copier_operation" in entry]
    return str(block)


def paths_in(block: str) -> list[str]:
    return [line.strip()[1:] for line in block.splitlines() if line.strip().startswith("/")]


def label(answers: Answers) -> str:
    """A readable name for a test: the answers that differ from the defaults."""
    different: Iterable[str] = (
        f"{name}={value}" for name, value in answers.items() if value != QUESTIONS[name]["default"]
    )
    return ",".join(different) or "defaults"
