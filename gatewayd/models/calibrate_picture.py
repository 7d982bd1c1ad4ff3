"""The reliability curve of a calibration as a picture: how often answers were right, by how sure the model was.

Plain SVG with its own light and dark colors, a title for who cannot see it, and nothing to load.
"""

from collections.abc import Sequence
from html import escape

from gatewayd.models.calibrate_fit import Bin

_STYLE = """<style>
.t{fill:#24292f}.d{fill:#57606a}.g{stroke:#d0d7de}.i{stroke:#8c959f;stroke-dasharray:4 4}
.b{stroke:#cf222e;fill:#cf222e}.a{stroke:#1a7f37;fill:#1a7f37}polyline.a,polyline.b{fill:none;stroke-width:2}
@media (prefers-color-scheme:dark){
.t{fill:#e6edf3}.d{fill:#9ea7b3}.g{stroke:#30363d}.b{stroke:#f85149;fill:#f85149}.a{stroke:#3fb950;fill:#3fb950}polyline.a,polyline.b{fill:none}}
</style>"""
_SIZE, _LEFT, _TOP = 360, 56, 40


def reliability_svg(title: str, before: Sequence[Bin], after: Sequence[Bin], *, said: Sequence[str] = ()) -> str:
    """Bare scores and confidences beside the diagonal; the area of a point is the share of answers it stands for."""
    width, height = _LEFT + _SIZE + 250, _TOP + _SIZE + 48
    n = sum(each.n for each in after) or 1
    rows = [
        f'<text class="t" x="{_LEFT}" y="22" font-weight="600">{escape(title)}</text>',
        *_axes(),
        *_curve(before, "b", n),
        *_curve(after, "a", n),
        *_legend(said),
    ]
    box = f'viewBox="0 0 {width} {height}" role="img" font-family="system-ui, sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f"<title>{escape(title)}</title>", _STYLE, *rows, "</svg>", ""])


def _x(share: float) -> float:
    return _LEFT + _SIZE * share


def _y(share: float) -> float:
    return _TOP + _SIZE * (1 - share)


def _axes() -> list[str]:
    rows = [f'<line class="i" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>']
    for tenth in range(0, 11, 2):
        share = tenth / 10
        rows += [
            f'<line class="g" x1="{_x(0)}" y1="{_y(share):.1f}" x2="{_x(1)}" y2="{_y(share):.1f}"/>',
            f'<text class="d" x="{_x(0) - 8}" y="{_y(share) + 4:.1f}" text-anchor="end">{share:g}</text>',
            f'<text class="d" x="{_x(share):.1f}" y="{_y(0) + 18}" text-anchor="middle">{share:g}</text>',
        ]
    return [
        *rows,
        f'<text class="d" x="{_x(0.5)}" y="{_y(0) + 38}" text-anchor="middle">confidence</text>',
        f'<text class="d" x="16" y="{_y(0.5)}" text-anchor="middle" transform="rotate(-90 16 {_y(0.5)})">'
        "share that was right</text>",
    ]


def _curve(bins: Sequence[Bin], kind: str, n: int) -> list[str]:
    places = [(_x(each.confidence), _y(each.accuracy), each.n) for each in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    points = [
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{2 + 14 * (count / n) ** 0.5:.1f}" fill-opacity="0.35"/>'
        for x, y, count in places
    ]
    return [f'<polyline class="{kind}" points="{line}"/>', *points]


def _legend(said: Sequence[str]) -> list[str]:
    x = _x(1) + 20
    rows = [
        f'<circle class="b" cx="{x}" cy="{_TOP + 10}" r="5"/>'
        f'<text class="t" x="{x + 12}" y="{_TOP + 15}">bare scores</text>',
        f'<circle class="a" cx="{x}" cy="{_TOP + 34}" r="5"/>'
        f'<text class="t" x="{x + 12}" y="{_TOP + 39}">calibrated</text>',
    ]
    lines = enumerate(said)
    return rows + [f'<text class="d" x="{x - 5}" y="{_TOP + 72 + 20 * at}">{escape(line)}</text>' for at, line in lines]
