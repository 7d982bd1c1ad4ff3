"""The lines for people: a table on the terminal, and as Markdown with ours and the alternatives side by side."""

from collections.abc import Iterable, Mapping, Sequence

from tests.sim.oracle import Line

_COLUMNS = (
    "test",
    "subject",
    "faults",
    "sent",
    "acked",
    "delivered_unique",
    "lost",
    "duplicates",
    "resent",
    "phantom",
    "corrupt",
    "dead_letter",
    "evicted",
    "expired",
    "out_of_order",
    "recovery_s",
    "peak_rss_mb",
    "max_wal_mb",
    "bytes_written_per_msg",
)
_HEADS = {"delivered_unique": "delivered", "bytes_written_per_msg": "B/msg", "dead_letter": "dead"}
_COMPARED = (
    "faults",
    "sent",
    "acked",
    "lost",
    "duplicates",
    "corrupt",
    "recovery_s",
    "peak_rss_mb",
    "bytes_written_per_msg",
)
_TEXTS = 2  # columns of words


def table(lines: Iterable[Line]) -> str:
    """All lines below each other."""
    rows = [_head(_COLUMNS), *(_row(line, _COLUMNS) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < _TEXTS else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(lines: Sequence[Line], cases: Mapping[int, str], seconds: Mapping[int, float], form: str) -> str:
    """A page: first what is compared, then every line."""
    n_bad = sum(not line.holds for line in lines)
    parts = [
        "# The fault tests",
        f"Written by `make faults{' LONG=1' if form == 'long' else ''}`, {form} form: {len(lines)} lines, "
        f"{n_bad} of them do not hold. Nothing acknowledged may be lost, stored under two ids, made up or changed; "
        "`resent` came again under its id, which the cloud's dedup removes. An alternative's losses fail nothing.",
        *_compared(lines),
        "## Every line",
        _grid(lines, _COLUMNS),
        "## Time taken",
        _markdown([["case", "", "s"], *([str(n), cases[n], f"{seconds[n]:.0f}"] for n in sorted(seconds))]),
    ]
    return "\n\n".join(parts) + "\n"


def _compared(lines: Sequence[Line]) -> list[str]:
    tests = dict.fromkeys(line.test for line in lines if line.is_compared)
    if not tests:
        return []
    parts = ["## Beside what one would otherwise have"]
    for test in tests:
        beside = [line for line in lines if line.test == test]
        parts += [f"### {test}", _grid(beside, _COMPARED)]
        notes = [f"- {line.subject}: {line.more['simulated']}" for line in beside if "simulated" in line.more]
        if notes:
            parts.append("\n".join(notes))
    return parts


def _grid(lines: Sequence[Line], columns: Sequence[str]) -> str:
    names = columns if columns[0] == "test" else ("subject", *columns)
    return _markdown([_head(names), *(_row(line, names) for line in lines)])


def _head(columns: Sequence[str]) -> list[str]:
    return [*(_HEADS.get(name, name) for name in columns), "holds"]


def _row(line: Line, columns: Sequence[str]) -> list[str]:
    holds = "-" if line.is_compared else "yes" if line.holds else "NO"
    values = [getattr(line, name) for name in columns]
    return [*("" if value is None else str(value) for value in values), holds]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])
