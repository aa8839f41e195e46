"""One HTML page about a fleet, with nothing to load: who is behind, who would conflict, where."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from fleet.output import summary
from fleet.results import Result, State, printable
from fleet.versions import sortable

STYLE = (Path(__file__).parent / "report.css").read_text("utf-8")
# What has to be looked at comes first.
SECTIONS = {
    State.CONFLICT: "Both sides changed the same lines: people have to resolve these files.",
    State.BROKEN: "The update applies, but the check fails after it.",
    State.FAILED: "No update could be tried.",
    State.BEHIND: "There is a newer version.",
    State.CLEAN: "The update applies.",
    State.CURRENT: "Nothing to update.",
}
MOST = 15  # files in a chart: the rest of a long tail says little


def write_report(results: list[Result], output: Path) -> None:
    """Raises OSError if `output` cannot be written."""
    output.write_text(page(results, datetime.now(UTC)), "utf-8")


def page(results: list[Result], now: datetime) -> str:
    results = list(map(printable, results))
    by_state = {state: [one for one in results if one.state == state] for state in SECTIONS}
    versions = Counter(result.old or "unknown" for result in results)
    newest_first = sorted(versions.items(), key=lambda item: sortable(item[0]), reverse=True)
    conflicts = Counter(path for result in results for path in result.conflicts)
    drift = Counter(path for result in results for path in result.drift)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fleet: {escape(summary(results))}</title>
<style>
{STYLE}</style>
<h1>Fleet</h1>
<p>{len(results)} repositories, as of {now:%Y-%m-%d %H:%M} UTC.</p>
<nav class="shares">{"".join(share(state, found) for state, found in by_state.items())}</nav>
<div class="charts">
{chart("Versions", newest_first)}
{chart("Files that would conflict", conflicts.most_common(MOST))}
{chart("Drift, by file", drift.most_common(MOST))}
</div>
{"".join(section(state, found) for state, found in by_state.items())}</html>
"""


def share(state: State, found: list[Result]) -> str:
    """A link, as wide as its share of the fleet."""
    if not found:
        return ""
    grow = f"flex-grow: {len(found)}"
    return f'<a class="{state}" style="{grow}" href="#{state}">{len(found)} {state}</a>'


def chart(title: str, counts: Iterable[tuple[str, int]]) -> str:
    counts = list(counts)
    most = max((count for _, count in counts), default=1)
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{count}</td>'
        f'<td><span class="bar" style="width: {count / most * 8:.1f}rem"></span></td></tr>\n'
        for name, count in counts
    )
    content = f"<table>\n{rows}</table>" if rows else "<p>None.</p>"
    return f"<section><h2>{title}</h2>{content}</section>"


def section(state: State, found: list[Result]) -> str:
    if not found:
        return ""
    rows = "".join(row(result) for result in sorted(found, key=lambda result: result.shown))
    return f"""<section id="{state}">
<h2><span class="state {state}">{state}</span> {len(found)}</h2>
<p>{SECTIONS[state]}</p>
<div class="wide"><table class="repositories">
<tr><th>Repository</th><th>Version</th><th>Files</th><th>Drift</th><th>Details</th></tr>
{rows}</table></div>
</section>
"""


def row(result: Result) -> str:
    version = escape(result.old or "unknown")
    if result.new != result.old:
        version += f" → {escape(result.new)}"
    details = [f"<code>{escape(path)}</code>" for path in result.conflicts]
    details += [escape(result.cause)] if result.cause else []
    details += ["uncommitted changes were left out"] if result.dirty else []
    return (
        f'<tr><td title="{escape(result.shown)}">{escape(short(result.shown))}</td>'
        f"<td>{version}</td><td>{folded(result.files)}</td><td>{folded(result.drift)}</td>"
        f"<td>{'<br>'.join(details)}</td></tr>\n"
    )


def short(repository: str) -> str:
    """Its name and what it is in: an organisation, a host or a folder."""
    return "/".join(repository.rstrip("/").removesuffix(".git").split("/")[-2:])


def folded(paths: list[str]) -> str:
    """How many; which, on a click."""
    if not paths:
        return "0"
    listed = "<br>".join(f"<code>{escape(path)}</code>" for path in paths)
    return f"<details><summary>{len(paths)}</summary>{listed}</details>"
