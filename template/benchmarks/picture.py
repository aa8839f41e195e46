"""One picture of all: how long each route takes, and every request of the outage."""

from collections.abc import Iterator, Sequence
from html import escape
from math import log10

from benchmarks.measure import Outage, Route

_WIDTH, _LEFT, _RIGHT = 860, 190, 60
_ROW, _PLOT = 16, 220
_COLOURS = {"computed": "#9aa0a6", "miss": "#d98c3f", "hit": "#0b6e99"}
_BAD = "#c5221f"
_FASTEST, _SLOWEST = 1e-4, 10.0
"""The ends of the outage's scale, in seconds; it is logarithmic."""


def draw(routes: Sequence[Route], outage: Outage) -> str:
    """The picture, as SVG."""
    bars = list(_bars(routes, top=50))
    end = 60 + len(routes) * (3 * _ROW + 12)
    plot = list(_timeline(outage, top=end + 40))
    height = end + _PLOT + 90
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            _text(12, 24, "Milliseconds of one request", weight="bold"),
            *bars,
            _text(12, end + 24, "Every request while Redis is frozen, then killed", weight="bold"),
            *plot,
            "</svg>\n",
        ]
    )


def _bars(routes: Sequence[Route], top: float) -> Iterator[str]:
    longest = max(max(route.without, route.miss, route.hit) for route in routes)
    scale = (_WIDTH - _LEFT - _RIGHT - 60) / longest
    for route in routes:
        yield _text(12, top + 1.7 * _ROW, f"GET {route.path}")
        for name, seconds in (
            ("computed", route.without),
            ("miss", route.miss),
            ("hit", route.hit),
        ):
            width = max(1.0, seconds * scale)
            yield (
                f'<rect x="{_LEFT + 60}" y="{top:.0f}" width="{width:.1f}" height="{_ROW - 3}" '
                f'fill="{_COLOURS[name]}"/>'
            )
            yield _text(_LEFT + 54, top + 11, name, anchor="end")
            yield _text(_LEFT + 64 + width, top + 11, f"{seconds * 1000:.2f}")
            top += _ROW
        top += 12


def _timeline(outage: Outage, top: float) -> Iterator[str]:
    last = max(answer.at for answer in outage.answers)
    width = _WIDTH - 60 - _RIGHT

    def x(at: float) -> float:
        return 60 + width * at / last

    def y(seconds: float) -> float:
        seconds = min(max(seconds, _FASTEST), _SLOWEST)
        return top + _PLOT * log10(_SLOWEST / seconds) / log10(_SLOWEST / _FASTEST)

    for name, (begin, end) in (("frozen", outage.frozen), ("killed", outage.killed)):
        yield (
            f'<rect x="{x(begin):.1f}" y="{top:.0f}" width="{x(end) - x(begin):.1f}" '
            f'height="{_PLOT}" fill="#eef1f4"/>'
        )
        yield _text((x(begin) + x(end)) / 2, top + 14, name, anchor="middle")
    for seconds, label in ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s")):
        line = f'x1="60" x2="{60 + width}" y1="{y(seconds):.1f}" y2="{y(seconds):.1f}"'
        yield f'<line {line} stroke="#dadce0"/>'
        yield _text(54, y(seconds) + 4, label, anchor="end")
    for answer in outage.answers:
        colour = _COLOURS["hit"] if answer.good else _BAD
        yield (
            f'<circle cx="{x(answer.at):.1f}" cy="{y(answer.seconds):.1f}" r="1.6" '
            f'fill="{colour}"/>'
        )
    yield _text(60, top + _PLOT + 16, "0 s")
    yield _text(60 + width, top + _PLOT + 16, f"{last:.0f} s", anchor="end")
    yield _text(60 + width / 2, top + _PLOT + 16, "red: failed", anchor="middle")


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{bold}'
    return f"<text {place}>{escape(words)}</text>"
