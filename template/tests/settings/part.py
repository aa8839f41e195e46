"""What a part of the settings takes and refuses: `test_settings.py` tries it for all of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Examples of the variables of one part."""

    safe: Mapping[str, str] = field(default_factory=dict)
    """What production takes."""
    wrong: Sequence[tuple[str, str]] = ()
    """Variables and values that are refused everywhere."""
    unsafe: Sequence[tuple[str, str, str]] = ()
    """Variables and values that production refuses, and what it says."""
    hidden: Sequence[tuple[str, str]] = ()
    """Variables and values with the password `hunter2`."""


def parts() -> Iterator[Part]:
    """The parts that this service has: each other file of this folder has one."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "part") and not path.stem.startswith("test_"):
            part = import_module(f"{__package__}.{path.stem}").PART
            assert isinstance(part, Part)
            yield part
