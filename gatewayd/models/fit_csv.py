"""Recordings in CSV files as series: one for each file and device, cut where time has a gap.

Every cell is a finite number when `read_series` returns; anything else was an error that names file, line and column.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatewayd.errors import ModelError

TIME_NAMES = frozenset({"time", "timestamp", "datetime", "date", "ts"})
GAP_SAMPLES = 10  # the same pause restarts the window in the handler classify_series
MAX_FIELDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Rows of one device in one file, in the order of the file, without a gap in time."""

    file: str
    device: str  # "" where the files name none
    values: NDArray[np.float32]  # [rows, fields]
    labels: tuple[str, ...]  # as in the file; empty where there is no label column
    lines: tuple[int, ...]  # line numbers in the file, the header being 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """All files together."""

    series: tuple[Series, ...]
    fields: tuple[str, ...]
    interval_s: float  # median time between neighboring rows; 0 where the files have no time
    rows: int


@dataclass(frozen=True, slots=True)
class _Table:
    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]  # line number, cells

    def column(self, name: str, option: str) -> int:
        if name not in self.header:
            raise ModelError(f"{self.path}: no column {name!r} ({option}); the header has {self.header}")
        return self.header.index(name)


def read_recordings(
    csvs: Sequence[Path],
    *,
    fields: Sequence[str] | None,
    ignore: Sequence[str] = (),
    label_column: str | None = None,
    time_column: str | None = None,
    device_column: str | None = None,
    delimiter: str | None = None,
) -> Recordings:
    """Read CSV files with a header line; `fields` None takes every numeric column that is not one of the others.

    Times are seconds since the epoch or ISO 8601. Raises ModelError naming file, line, column and what to do.
    """
    if not csvs:
        raise ModelError("no recordings: give at least one CSV file with a header line")
    tables = [_read(path, delimiter) for path in csvs]
    time = time_column or next((name for name in tables[0].header if name.lower() in TIME_NAMES), None)
    others = {name for name in (label_column, time, device_column, *ignore) if name}
    chosen = tuple(fields) if fields else _numeric(tables[0], others)
    if len(chosen) > MAX_FIELDS:
        raise ModelError(f"{csvs[0]}: {len(chosen)} fields are more than {MAX_FIELDS}: name those that matter (fields)")
    series: list[Series] = []
    intervals: list[NDArray[np.float64]] = []
    for table in tables:
        series.extend(_split(table, chosen, label_column, time, device_column, intervals))
    usual = float(np.median(np.concatenate(intervals))) if any(len(part) for part in intervals) else 0.0
    return Recordings(
        series=tuple(series), fields=chosen, interval_s=usual, rows=sum(len(table.rows) for table in tables)
    )


def _read(path: Path, delimiter: str | None) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter or _delimiter(first))
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise ModelError(f"{path}: is no CSV file in UTF-8: {exc}") from exc
    if len(set(header)) != len(header) or not rows:
        raise ModelError(f"{path}: needs a header line of distinct names and at least one line below it")
    for line, cells in rows:
        if len(cells) != len(header):
            raise ModelError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}: mend the line")
    return _Table(path, header, rows)


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _numeric(table: _Table, others: set[str]) -> tuple[str, ...]:
    """Columns in which some cell is a number: one with holes must be an error that is seen, not a column left out."""
    found = [
        name
        for index, name in enumerate(table.header)
        if name not in others and any(_is_number(cells[index]) for _, cells in table.rows[:100])
    ]
    if not found:
        raise ModelError(f"{table.path}: no numeric column; the header has {table.header}")
    return tuple(found)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _split(
    table: _Table,
    fields: Sequence[str],
    label: str | None,
    time: str | None,
    device: str | None,
    intervals: list[NDArray[np.float64]],
) -> Iterator[Series]:
    """The table's series; appends the times between neighboring rows to `intervals`."""
    columns = [table.column(name, "fields") for name in fields]
    values = np.array([[_number(table, line, cells, at) for at in columns] for line, cells in table.rows], np.float32)
    labels = _texts(table, label, "label_column")
    devices = _texts(table, device, "device_column") or [""] * len(table.rows)
    times = _times(table, time) if time and time in table.header else None
    for name in dict.fromkeys(devices):
        rows = np.array([row for row, owner in enumerate(devices) if owner == name])
        for part in _without_gaps(rows, times, intervals):
            yield Series(
                file=table.path.name,
                device=name,
                values=values[part],
                labels=tuple(labels[row] for row in part) if labels else (),
                lines=tuple(table.rows[row][0] for row in part),
            )


def _without_gaps(
    rows: NDArray[np.intp], times: NDArray[np.float64] | None, intervals: list[NDArray[np.float64]]
) -> list[NDArray[np.intp]]:
    if times is None or len(rows) < 2:
        return [rows]
    between = np.abs(np.diff(times[rows]))
    intervals.append(between)
    usual = float(np.median(between))
    if usual <= 0:
        return [rows]
    return np.split(rows, np.flatnonzero(between > GAP_SAMPLES * usual) + 1)


def _number(table: _Table, line: int, cells: Sequence[str], at: int) -> float:
    try:
        number = float(cells[at])
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    what = "is empty" if not cells[at].strip() else "holds no finite number"
    raise ModelError(
        f"{table.path}, line {line}, column {table.header[at]!r}: {what}; "
        "fill it in, take the line out, or name the fields to use without this one"
    )


def _texts(table: _Table, column: str | None, option: str) -> list[str]:
    if column is None:
        return []
    at = table.column(column, option)
    for line, cells in table.rows:
        if not cells[at].strip():
            raise ModelError(f"{table.path}, line {line}, column {column!r}: is empty; fill it in or take the line out")
    return [cells[at].strip() for _, cells in table.rows]


def _times(table: _Table, column: str) -> NDArray[np.float64]:
    at = table.column(column, "time_column")
    return np.array([_time(table, line, cells[at]) for line, cells in table.rows])


def _time(table: _Table, line: int, cell: str) -> float:
    try:
        return float(cell) if _is_number(cell) else _epoch(datetime.fromisoformat(cell.strip()))
    except ValueError:
        raise ModelError(
            f"{table.path}, line {line}: {cell!r} is no time; give ISO 8601 or seconds since the epoch"
        ) from None


def _epoch(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
