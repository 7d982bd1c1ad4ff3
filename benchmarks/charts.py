"""Lines over an axis as plain SVG, with its own light and dark colors: what pictures of memory need, and no more."""

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """<style>
.t{fill:#24292f}.d{fill:#57606a}.axis{stroke:#8c959f}.a{stroke:#1a7f37}.b{stroke:#cf222e}.c{stroke:#0969da}
.d4{stroke:#8250df}.line{fill:none;stroke-width:1.6}.fa{fill:#1a7f37}.fb{fill:#cf222e}.fc{fill:#0969da}.fd4{fill:#8250df}
.e{stroke:#bc4c00}.g{stroke:#57606a}.fe{fill:#bc4c00}.fg{fill:#57606a}
@media (prefers-color-scheme:dark){
.e{stroke:#f0883e}.g{stroke:#9ea7b3}.fe{fill:#f0883e}.fg{fill:#9ea7b3}
.t{fill:#e6edf3}.d{fill:#9ea7b3}.axis{stroke:#6e7681}.a{stroke:#3fb950}
.b{stroke:#f85149}.c{stroke:#58a6ff}.d4{stroke:#bc8cff}.fa{fill:#3fb950}.fb{fill:#f85149}.fc{fill:#58a6ff}.fd4{fill:#bc8cff}}
</style>"""
_COLORS = ("a", "b", "c", "d4", "e", "g")
_WIDTH, _HEIGHT, _LEFT, _TOP, _LEGEND = 880, 300, 70, 40, 20

Points = Sequence[tuple[float, float]]


def line_chart(title: str, x_name: str, y_name: str, lines: Mapping[str, Points]) -> str:
    """One chart; `lines` by their name, the y axis from 0."""
    right = max(x for points in lines.values() for x, _ in points) or 1.0
    top = 1.15 * max(y for points in lines.values() for _, y in points) or 1.0
    high, wide = _HEIGHT - _TOP - 40, _WIDTH - _LEFT - 20
    height = _HEIGHT + _LEGEND * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        _STYLE,
        f'<text class="t" x="8" y="20" font-weight="600">{escape(title)}</text>',
        f'<text class="d" x="{_WIDTH - 20}" y="{_HEIGHT - 6}" text-anchor="end">{escape(x_name)}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _LEFT + share * wide, _TOP + (1 - share) * high
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" opacity="0.4"/>')
        label = f"{share * top:.4g}" + (f" {y_name}" if share == 1.0 else "")
        parts.append(f'<text class="d" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        parts.append(
            f'<text class="d" x="{x:.1f}" y="{_TOP + high + 18}" text-anchor="middle">{share * right:g}</text>'
        )
    for index, (name, points) in enumerate(lines.items()):
        color = _COLORS[index % len(_COLORS)]
        path = " ".join(f"{_LEFT + x / right * wide:.1f},{_TOP + (1 - y / top) * high:.1f}" for x, y in points)
        parts.append(f'<polyline class="line {color}" points="{path}"/>')
        y = _HEIGHT + _LEGEND * index + 12
        parts.append(f'<rect class="f{color}" x="{_LEFT}" y="{y - 9}" width="14" height="4"/>')
        parts.append(f'<text class="t" x="{_LEFT + 22}" y="{y - 3}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
