"""One HTML page about a fleet, with nothing to load: who is behind, and who would conflict."""

from collections import Counter
from html import escape
from pathlib import Path

from fleet.output import summary
from fleet.results import Result, State

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #8884; padding: .4rem .6rem; }
th, td { text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; } td:first-child { min-width: 9rem; }
code { font-size: .9em; }
.nowrap { white-space: nowrap; }
.state { border-radius: 1em; color: #fff; padding: .1em .7em; white-space: nowrap; }
.current, .clean { background: #1a7f37; } .behind { background: #8a5a00; }
.conflict, .broken { background: #c62828; } .failed { background: #6a1b9a; }
.bar { background: #3572b0; border-radius: 3px; display: inline-block; height: .8em; }
.bar { max-width: 30vw; }
"""


def write_report(results: list[Result], output: Path) -> None:
    """Raises OSError if `output` cannot be written."""
    output.write_text(page(results), "utf-8")


def page(results: list[Result]) -> str:
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fleet</title>
<style>{STYLE}</style>
<h1>Fleet</h1>
<p>{escape(summary(results))}</p>
<h2>Versions</h2>
{counts(Counter(result.old or "unknown" for result in results))}
<h2>Where it would conflict</h2>
{counts(Counter(path for result in results for path in result.conflicts))}
<h2>Repositories</h2>
<div class="wide"><table>
<tr><th>Repository</th><th>State</th><th>Version</th><th>Files</th><th>Drift</th><th>Details</th></tr>
{"".join(row(result) for result in sorted(results, key=urgency))}
</table></div>
</html>
"""


def urgency(result: Result) -> tuple[int, str]:
    return -list(State).index(result.state), result.shown


def counts(found: Counter[str]) -> str:
    if not found:
        return "<p>None.</p>"
    most = max(found.values())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td class='nowrap'>{count}</td><td>"
        f"<span class='bar' style='width: {count / most * 10:.1f}rem'></span></td></tr>\n"
        for name, count in found.most_common()
    )
    return f"<div class='wide'><table>\n{rows}</table></div>"


def row(result: Result) -> str:
    name = result.shown.rstrip("/").rpartition("/")[2].removesuffix(".git")
    version = result.old or "unknown"
    if result.new != result.old:
        version += f" → {result.new}"
    details = [f"<code>{escape(path)}</code>" for path in result.conflicts]
    details += [escape(result.cause)] if result.cause else []
    details += ["uncommitted changes were left out"] if result.dirty else []
    drift = "<br>".join(f"<code>{escape(path)}</code>" for path in result.drift)
    if drift:
        drift = f"<details><summary>{len(result.drift)}</summary>{drift}</details>"
    return (
        f"<tr><td title='{escape(result.shown)}'>{escape(name)}</td>"
        f"<td><span class='state {result.state}'>{result.state}</span></td>"
        f"<td class='nowrap'>{escape(version)}</td><td>{len(result.files)}</td>"
        f"<td>{drift or 0}</td><td>{'<br>'.join(details)}</td></tr>\n"
    )
