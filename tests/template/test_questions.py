"""Answers of all kinds: refused with a message and nothing written, or rendered as they are."""

import ast
import json
import tomllib
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy

from tests.template.answers import QUESTIONS
from tests.template.conftest import Render
from tests.template.lint import assert_linted
from tests.template.trees import text_files

GOOD_NAMES = [
    # Words with a meaning of their own in Python, YAML, TOML or a shell. The package is always
    # `app`, so a service may be called so.
    "class", "app", "test", "import", "null", "true", "no", "on", "nan", "inf", "exec",
    # Names of packages that a service depends on.
    "redis", "requests", "fastapi",
    "a", "x1", "order-history-2", "a" * 40,
]  # fmt: skip
BAD_NAMES = [
    "", " ", "Orders", "1orders", "-orders", "orders-", "order--s", "order_s", "order s", "órders",
    "orders\n", "orders/x", "../orders", ".", "orders.app", "orders;true", "$HOME", "${X}", "`id`",
    '"', "'", "\\", "{{ x }}", "{% x %}", "🎉", "a" * 41, "a" * 5000,
]  # fmt: skip
GOOD_DESCRIPTIONS = [
    "It's a service", "Größe, naïve, 日本, 🎉", "Costs ${X} and $Y at 100 % of %s",
    "#1 & *2 | @3 > !4", "null", "123", "- x: [y", "? x : y", "<b>&amp;</b>", "`code`", "'''",
    "{x} }} %}", "x" * 80,
]  # fmt: skip
BAD_DESCRIPTIONS = [
    "", "   ", " x", "x ", 'a "b"', "a \\ b", "a\nb", "a\tb", "a\x00b", "a\x7fb", "a\u2028b",
    "{{ x }}", "{% x %}", "{# x", "x" * 81,
]  # fmt: skip
BAD_PORTS = ["", "80", "0", "65536", "080000", "8000 ", "port", "-8000", "8e3"]
BAD_CHOICES = {
    "database": "oracle", "serializer": "yaml", "lock_strategy": "hope", "python_version": "3.10",
}  # fmt: skip

# Values that occur nowhere else, so that their places can be found and compared.
NAME, DESCRIPTION = "zebra-marker", "Marker of a zebra"


def parsed(path: str, text: str) -> Any:
    """The structure of a file, as far as its format has one; else its text."""
    match Path(path).suffix:
        case ".py":
            return ast.dump(ast.parse(text))
        case ".toml":
            return tomllib.loads(text)
        case ".yaml" | ".yml":
            return list(yaml.safe_load_all(text))
        case ".json":
            return json.loads(text)
        case _:
            return text


def replaced(value: Any, old: str, new: str) -> Any:
    """`value` with `old` replaced by `new` in every string, keys included."""
    if isinstance(value, dict):
        return {replaced(key, old, new): replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value


# One render for both; the shorter list is repeated.
PAIRS = list(zip(GOOD_NAMES, cycle(GOOD_DESCRIPTIONS), strict=False))
BAD = [
    *(("service_name", name) for name in BAD_NAMES),
    *(("description", text) for text in BAD_DESCRIPTIONS),
    *(("port", port) for port in BAD_PORTS),
    *BAD_CHOICES.items(),
]


def sampled(cases: list[tuple[str, str]]) -> list[Any]:
    """Each is a render: the fast tier takes every fifth."""
    slow = pytest.mark.slow
    return [pytest.param(*case, marks=[slow] if i % 5 else []) for i, case in enumerate(cases)]


@pytest.mark.parametrize(("name", "description"), sampled(PAIRS))
def test_an_unusual_answer_is_taken_literally(
    render_wiring: Render, name: str, description: str
) -> None:
    """It stands where the marker would, and changes nothing else."""
    expected = text_files(render_wiring(service_name=NAME, description=DESCRIPTION))
    got = text_files(render_wiring(service_name=name, description=description))
    assert got.keys() == expected.keys()
    for path, text in got.items():
        want = parsed(path, expected[path])
        for marker, answer in ((NAME, name), (DESCRIPTION, description)):
            # In a dump of Python's syntax tree the answer appears as the literal that it is.
            literal = repr(answer)[1:-1] if path.endswith(".py") else answer
            want = replaced(want, marker, literal)
        assert parsed(path, text) == want, path


@pytest.mark.slow
def test_unusual_answers_keep_a_service_clean(render_wiring: Render) -> None:
    assert len(GOOD_NAMES) >= len(GOOD_DESCRIPTIONS)
    assert_linted(
        *(render_wiring(service_name=name, description=description) for name, description in PAIRS)
    )


@pytest.mark.parametrize(("question", "answer"), sampled(BAD))
def test_a_bad_answer_is_refused(wiring: Path, tmp_path: Path, question: str, answer: str) -> None:
    with pytest.raises(ValueError, match=question):
        run_copy(
            str(wiring),
            tmp_path / "service",
            {question: answer},
            defaults=True,
            quiet=True,
        )
    assert list(tmp_path.iterdir()) == []


def test_every_question_has_a_default_and_says_what_follows() -> None:
    for name, spec in QUESTIONS.items():
        assert "default" in spec, name
        assert len(spec.get("help", "")) > 30, name
        assert spec["type"] in ("str", "bool"), f"{name}: Cookiecutter has no {spec['type']}"
        assert "choices" in spec or spec["type"] == "bool" or "validator" in spec, name


def test_few_questions_are_asked() -> None:
    assert sum(spec.get("ask", True) for spec in QUESTIONS.values()) <= 12
