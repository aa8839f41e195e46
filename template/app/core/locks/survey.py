"""What the markers of one cluster say about each other: has a server forgotten, or a slot moved?"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server answers about one marker."""

    wait_ms: int
    """For how long locks beside the marker are refused."""
    server: str
    """The server, and its replication history."""
    before: str
    """Who wrote the marker before, if this server did not know itself in it."""
    steady: bool
    """The server has run for longer than any lock lasts, and was never a replica."""


def moved(surveys: Mapping[str, Survey]) -> dict[str, str]:
    """Return the markers that moved here with their slots, and the servers where they are now.

    Nothing was forgotten if the server that wrote the marker is still the same (it speaks for other
    markers), and the one that has it now has known itself for longer than any lock lasts: from
    another marker, or because it has run for that long. A server that took over from a failed one
    knows itself in no marker, and whoever gave away its last one can no longer speak.
    """
    alive = {survey.server for survey in surveys.values()}
    trusted = {survey.server for survey in surveys.values() if not survey.wait_ms or survey.steady}
    return {
        marker: survey.server
        for marker, survey in surveys.items()
        if survey.wait_ms and survey.before in alive and survey.server in trusted
    }
