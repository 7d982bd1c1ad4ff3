"""The rows as JSON, as a Markdown table, and as pictures: the ratios, and what a figure itself has drawn.

A figure that has more to show than its rows draws it into its folder (`draw`); `write` keeps that beside the others as
`<host>-<name>.svg`.
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.charts import Points, line_chart
from benchmarks.speed.rows import Row, number

RESULTS = Path(__file__).parents[1] / "results"
_STYLE = """<style>.t{fill:#24292f}.d{fill:#57606a}.yes{fill:#1a7f37}.no{fill:#cf222e}.line{stroke:#57606a}
@media (prefers-color-scheme:dark){.t{fill:#e6edf3}.d{fill:#9ea7b3}.yes{fill:#3fb950}.no{fill:#f85149}}</style>"""


def host() -> str:
    """What the files are called after: the machine's kind, not its name."""
    return f"{platform.machine()}-{_n_cores()}cores"


def _n_cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def draw(folder: Path, name: str, title: str, x_name: str, y_name: str, lines: Mapping[str, Points]) -> None:
    """A picture of a figure, into the folder that the figure was given."""
    (folder / f"{name}.svg").write_text(line_chart(title, x_name, y_name, lines))


def write(rows: Sequence[Row], pictures: Sequence[Path] = (), folder: Path = RESULTS) -> list[Path]:
    """Write them all; where they are. Figures that were not taken now stay as they were, and so do their pictures."""
    folder.mkdir(exist_ok=True)
    data, text, picture = (folder / f"{host()}.{suffix}" for suffix in ("json", "md", "svg"))
    before = [Row(**row) for row in json.loads(data.read_text())] if data.exists() else []
    taken = {_figure(row) for row in rows}
    rows = sorted([*rows, *(row for row in before if _figure(row) not in taken)], key=_figure)
    kept = [Path(shutil.copyfile(drawn, folder / f"{host()}-{drawn.name}")) for drawn in pictures]
    data.write_text(json.dumps([row.as_dict() for row in rows], indent=1, ensure_ascii=False) + "\n")
    text.write_text(markdown(rows, [picture, *sorted(folder.glob(f"{host()}-*.svg"))]))
    picture.write_text(svg(rows))
    return [data, text, picture, *kept]


def _figure(row: Row) -> int:
    """The issue's number: 1 for `1a`."""
    return int(row.id.rstrip("abcdefgh"))


def markdown(rows: Sequence[Row], pictures: Sequence[Path] = ()) -> str:
    """A table for people, and the pictures."""
    lines = [
        f"# Speed on {host()}",
        "",
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}; medians of the rounds.",
        "",
        "| # | what | value | beside | ratio | to reach | reached | spread |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        reached = {None: "", True: "yes", False: "**no**"}[row.ok]
        ratio = "" if row.ratio is None else number(row.ratio)
        cells = [
            row.id,
            row.what,
            f"{number(row.value)} {row.unit}",
            row.baseline,
            ratio,
            row.reach,
            reached,
            row.spread,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"![{drawn.stem}]({drawn.name})" for drawn in pictures)]
    return "\n".join(lines) + "\n"


def svg(rows: Sequence[Row]) -> str:
    """Ratios as bars, 1 as a line."""
    shown = [row for row in rows if row.ratio is not None]
    most = max((row.ratio or 0.0 for row in shown), default=1.0)
    scale, left, y = 420 / max(most, 1.0), 430, 30
    parts = []
    for row in shown:
        width = max(2.0, (row.ratio or 0.0) * scale)
        kind = "no" if row.ok is False else "yes"
        label = f"{row.id}: beside {row.baseline}"
        parts.append(f'<text class="d" x="{left - 8}" y="{y}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="{kind}" x="{left}" y="{y - 11}" width="{width:.0f}" height="14" rx="2"/>')
        parts.append(f'<text class="t" x="{left + width + 6:.0f}" y="{y}">{number(row.ratio or 0.0)}</text>')
        y += 24
    one = left + scale
    parts.append(f'<path class="line" d="M{one:.0f} 12V{y - 14}" stroke-dasharray="4 3"/>')
    box = f'viewBox="0 0 920 {y}" role="img" font-family="system-ui, sans-serif" font-size="12"'
    title = "<title>gatewayd beside each baseline; the dashed line is as fast as the baseline</title>"
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', title, _STYLE, *parts, "</svg>", ""])
