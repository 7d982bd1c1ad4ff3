"""The pictures of docs/guides/durability.md, drawn from the results that stand beside it.

    python -m benchmarks.faults.pictures

Plain SVG with its own light and dark colors; every bar has its figure as text, and a title for who cannot see it.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
LINES = _ROOT / "benchmarks" / "results" / "faults.jsonl"
PICTURE = _ROOT / "docs" / "guides" / "pictures" / "lost-beside-others.svg"
TESTS = {1: "kill -9 at random moments", 3: "power cuts", 8: "offline, then the drain"}

_STYLE = """<style>
.t{fill:#24292f}.d{fill:#57606a}.ours{fill:#1a7f37}.bar{fill:#cf222e}.zero{fill:#8c959f}
@media (prefers-color-scheme:dark){
.t{fill:#e6edf3}.d{fill:#9ea7b3}.ours{fill:#3fb950}.bar{fill:#f85149}.zero{fill:#6e7681}}
</style>"""
_WIDTH, _LEFT, _ROW, _BARS = 880, 320, 24, 400


def newest(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Mapping[str, Any]]:
    """The last line of each (case, subject) that is compared."""
    found: dict[tuple[int, str], Mapping[str, Any]] = {}
    for line in lines:
        number = int(line["test"].split()[0])
        if number in TESTS and line["acked"] and "NORMAL" not in line["subject"]:
            found[number, line["subject"]] = line
    return found


def draw(lines: Sequence[Mapping[str, Any]]) -> str:
    """Bars of what was lost of a thousand acknowledged messages, ours beside the others'."""
    found = newest(lines)
    rows: list[str] = []
    y = 34
    for number, name in TESTS.items():
        of_case = [(subject, line) for (case, subject), line in found.items() if case == number]
        if not of_case:
            continue
        rows.append(f'<text class="t" x="8" y="{y}" font-weight="600">{escape(name)}</text>')
        y += _ROW
        most = max(line["lost"] / line["acked"] for _, line in of_case) or 1.0
        for subject, line in sorted(of_case, key=lambda pair: not pair[0].startswith("gatewayd")):
            rows.append(_bar(subject, line, most, y))
            y += _ROW
        y += 10
    title = "Lost of what was acknowledged: gatewayd beside what a user would otherwise have"
    box = f'viewBox="0 0 {_WIDTH} {y}" role="img" font-family="system-ui, sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f"<title>{title}</title>", _STYLE, *rows, "</svg>", ""])


def _bar(subject: str, line: Mapping[str, Any], most: float, y: int) -> str:
    share = line["lost"] / line["acked"]
    width = max(2.0, _BARS * share / most)
    kind = "bar" if line["lost"] else "ours" if subject.startswith("gatewayd") else "zero"
    told = f"{line['lost']:,} of {line['acked']:,}"
    return (
        f'<text class="d" x="{_LEFT - 10}" y="{y}" text-anchor="end">{escape(subject)}</text>'
        f'<rect class="{kind}" x="{_LEFT}" y="{y - 11}" width="{width:.0f}" height="14" rx="2"/>'
        f'<text class="t" x="{_LEFT + width + 8:.0f}" y="{y}">{told}</text>'
    )


def main() -> None:
    """Write the picture."""
    with LINES.open() as file:
        lines = [json.loads(line) for line in file]
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(lines))


if __name__ == "__main__":
    main()
