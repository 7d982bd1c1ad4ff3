"""What `make bench` writes: rows as JSON, a table, pictures; figures not taken now stay."""

import json
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.speed.report import draw, host, write
from benchmarks.speed.rows import Row, rounds

FIELDS = {"id", "what", "value", "unit", "baseline", "ratio", "reach", "ok", "spread"}


def row(number: str, value: float = 1.0, ratio: float | None = None) -> Row:
    return Row(id=number, what=f"figure {number}", value=value, unit="msg/s", baseline="a bare loop", ratio=ratio)


def test_rows_table_and_pictures_are_written(tmp_path: Path) -> None:
    draw(tmp_path, "offline", "Memory", "messages", "MB", {"RSS": [(0, 0.0), (1, 4.3)]})
    results = tmp_path / "results"

    data, table, *pictures = write([row("1", ratio=0.4), row("8")], [tmp_path / "offline.svg"], results)

    assert [set(found) for found in json.loads(data.read_text())] == [FIELDS, FIELDS]
    assert [picture.name for picture in pictures] == [f"{host()}.svg", f"{host()}-offline.svg"]
    assert all(ElementTree.parse(picture).getroot().tag.endswith("svg") for picture in pictures)
    assert all(f"]({picture.name})" in table.read_text() for picture in pictures)
    assert "| 1 | figure 1 | 1 msg/s | a bare loop | 0.4 |" in table.read_text()


def test_figures_that_were_not_taken_stay_as_they_were(tmp_path: Path) -> None:
    write([row("1"), row("1b"), row("10"), row("2")], folder=tmp_path)

    data, *_ = write([row("1", 2.0)], folder=tmp_path)

    found = [(one["id"], one["value"]) for one in json.loads(data.read_text())]
    assert found == [("1", 2.0), ("2", 1.0), ("10", 1.0)]


def test_what_is_compared_is_taken_in_turn_and_divided_round_by_round() -> None:
    taken: list[str] = []
    fast, slow = iter([10.0, 20.0, 30.0]), iter([5.0, 40.0, 10.0])

    ours, its = rounds([lambda: taken.append("a") or next(fast), lambda: taken.append("b") or next(slow)], 3)  # type: ignore[func-returns-value]

    assert taken == ["a", "b"] * 3
    assert (ours.median, its.median, ours.over(its)) == (20.0, 10.0, 2.0)
