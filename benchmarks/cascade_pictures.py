"""F1 over calls as plain SVG, with its own light and dark colors: what a cascade keeps, for how many questions."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]  # (share of messages asked, F1)

_STYLE = """<style>
.t{fill:#24292f}.d{fill:#57606a}.g{stroke:#d0d7de}.w{fill:#1a7f37;fill-opacity:0.12}.l{fill:none;stroke-width:2}
.a{stroke:#1a7f37}.b{stroke:#cf222e}.c{stroke:#0969da}.fa{fill:#1a7f37}.fb{fill:#cf222e}.fc{fill:#0969da}
@media (prefers-color-scheme:dark){.t{fill:#e6edf3}.d{fill:#9ea7b3}.g{stroke:#30363d}.w{fill:#3fb950;fill-opacity:0.2}
.a{stroke:#3fb950}.b{stroke:#f85149}.c{stroke:#58a6ff}.fa{fill:#3fb950}.fb{fill:#f85149}.fc{fill:#58a6ff}}
</style>"""
_COLORS = ("a", "b", "c")
_WIDE, _HIGH, _LEFT, _TOP = 760, 280, 64, 40


def calls_chart(
    title: str, lines: Mapping[str, Points], chosen: Mapping[str, tuple[float, float]], wanted: tuple[float, float]
) -> str:
    """Lines by name; `chosen`: points of thresholds that were chosen beforehand; `wanted`: (most calls, least F1).

    The share of calls is drawn as its square root: what matters is on the left.
    """
    lowest = min(f1 for points in lines.values() for _, f1 in points)
    floor = min(0.9, int(lowest * 10) / 10)

    def x(share: float) -> float:
        return _LEFT + _WIDE * max(share, 0.0) ** 0.5

    def y(f1: float) -> float:
        return _TOP + _HIGH * (1 - (f1 - floor) / (1 - floor))

    parts = [f'<text class="t" x="{_LEFT}" y="22" font-weight="600">{escape(title)}</text>']
    most, least = wanted
    parts.append(
        f'<rect class="w" x="{x(0):.1f}" y="{y(1):.1f}" width="{x(most) - x(0):.1f}" height="{y(least) - y(1):.1f}"/>'
    )
    for step in range(round((1 - floor) * 10) + 1):
        f1 = floor + step / 10
        parts.append(f'<line class="g" x1="{x(0)}" x2="{x(1)}" y1="{y(f1):.1f}" y2="{y(f1):.1f}"/>')
        parts.append(f'<text class="d" x="{x(0) - 8}" y="{y(f1) + 4:.1f}" text-anchor="end">{f1:.1f}</text>')
    parts += [
        f'<text class="d" x="{x(percent / 100):.1f}" y="{_TOP + _HIGH + 18}" text-anchor="middle">{percent}</text>'
        for percent in (0, 1, 5, 15, 30, 50, 75, 100)
    ]
    parts.append(f'<text class="d" x="{x(1)}" y="{_TOP + _HIGH + 36}" text-anchor="end">% of messages asked</text>')
    parts.append(f'<text class="d" x="8" y="{_TOP + 4}">F1</text>')
    for index, (name, points) in enumerate(lines.items()):
        parts += _line(index, name, [(x(share), y(f1)) for share, f1 in points])
    for index, (name, (share, f1)) in enumerate(chosen.items()):
        color = _COLORS[list(lines).index(name)]
        parts.append(f'<circle class="f{color}" cx="{x(share):.1f}" cy="{y(f1):.1f}" r="6"/>')
        told = f"{name}: chosen beforehand, {share:.1%} of calls, F1 {f1:.3f}"
        at = _TOP + _HIGH + 56 + 20 * (len(lines) + index)
        parts.append(f'<circle class="f{color}" cx="{_LEFT + 7}" cy="{at - 4}" r="6"/>')
        parts.append(f'<text class="t" x="{_LEFT + 22}" y="{at}">{escape(told)}</text>')
    height = _TOP + _HIGH + 56 + 20 * (len(lines) + len(chosen))
    box = f'viewBox="0 0 {_LEFT + _WIDE + 30} {height}" role="img" font-family="system-ui, sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f"<title>{escape(title)}</title>", _STYLE, *parts, "</svg>", ""])


def _line(index: int, name: str, places: Sequence[tuple[float, float]]) -> list[str]:
    color = _COLORS[index]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    at = _TOP + _HIGH + 56 + 20 * index
    return [
        f'<polyline class="l {color}" points="{path}"/>',
        f'<rect class="f{color}" x="{_LEFT}" y="{at - 6}" width="14" height="4"/>',
        f'<text class="t" x="{_LEFT + 22}" y="{at}">{escape(name)}</text>',
    ]
