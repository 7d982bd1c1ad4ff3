"""`gatewayd spool ls` and `show`: rows for people, and the same as JSON."""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.cli.output import human_bytes, print_json, print_table
from gatewayd.cli.spool import open_reader
from gatewayd.errors import GatewaydError
from gatewayd.events import event_time
from gatewayd.ports import DeadLetter, JournalEntry, RawMessage, StoredResult
from gatewayd.spool.browse import Browser, Pick, Row, payload_bytes, picks_of

_DETAIL = 200  # characters of a dead letter's detail in a table
_DAMAGED = "DAMAGED"
_TOPIC = 40  # characters of a topic in a table
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def pick_of(
    *,
    dead: bool = False,
    results: bool = False,
    journal: bool = False,
    route: str = "",
    sink: str = "",
    reason: str = "",
    older_than: str = "",
) -> Pick:
    """The rows that the options name; results if they name no table. Raises UsageError for what makes no sense."""
    if dead + results + journal > 1:
        raise typer.BadParameter("--dead, --results and --journal are one or the other")
    if (reason or older_than) and not dead:
        raise typer.BadParameter("--reason and --older-than are about dead letters: use --dead as well")
    if sink and journal:
        raise typer.BadParameter("--sink is not about messages: they go to a route")
    before = time.time() - _age_s(older_than) if older_than else None
    return Pick(
        table="dead" if dead else "journal" if journal else "results",
        route=route, sink=sink, reason=reason, before=before,
    )  # fmt: skip


def picks_of_ids_or(
    ids: list[str],
    *,
    dead: bool = False,
    results: bool = False,
    journal: bool = False,
    route: str = "",
    sink: str = "",
    reason: str = "",
    older_than: str = "",
) -> list[Pick]:
    """As `pick_of`, or the rows with these ids; one of them has to be said."""
    if ids and (dead or results or journal or route or reason or older_than):
        raise typer.BadParameter("either ids, or options that name rows")
    if ids:
        return [msgspec.structs.replace(pick, sink=sink) for pick in picks_of(ids)]
    if not (dead or results or journal):
        raise typer.BadParameter("say which rows: ids as `gatewayd spool ls` prints them, or an option such as --dead")
    return [
        pick_of(
            dead=dead, results=results, journal=journal, route=route, sink=sink, reason=reason, older_than=older_than
        )
    ]


def _age_s(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not number.isascii() or not number.isdecimal():
        raise typer.BadParameter(f"{text}: say 90s, 30m, 12h or 7d", param_hint="--older-than")
    return int(number) * _UNITS_S[unit]


def print_rows(config: Path, pick: Pick, *, limit: int, as_json: bool) -> None:
    """A table, or a list of objects."""
    with open_reader(config) as reader:
        found = list(islice(Browser(reader.connection).rows(pick, newest_first=pick.table == "dead"), limit + 1))
    shown = found[:limit]
    if as_json:
        print_json([as_object(row) for row in shown])
        return
    if not shown:
        typer.echo(
            {"results": "No results wait.", "journal": "No messages wait.", "dead": "No dead letters."}[pick.table]
        )
        return
    _TABLES[pick.table](shown)
    more = " There is more: --limit." if len(found) > limit else ""
    typer.echo(f"One of them whole: gatewayd spool show {shown[0].id}.{more}")


def _print_results(found: Iterable[Row]) -> None:
    _print("Results, oldest first", ["kind", "subject", "size", "sinks"], found, _result_cells)


def _print_messages(found: Iterable[Row]) -> None:
    _print("Messages of the journal, oldest first", ["topic", "size", "attempts"], found, _message_cells)


def _print_letters(found: Iterable[Row]) -> None:
    _print("Dead letters, newest first", ["sink", "reason", "topic", "size", "detail"], found, _letter_cells)


def _result_cells(row: Row) -> tuple[object, ...]:
    value = row.value
    if not isinstance(value, StoredResult):
        return _DAMAGED, "", "", _sinks(row)
    return value.kind, _short(value.subject), human_bytes(payload_bytes(row)), _sinks(row)


def _message_cells(row: Row) -> tuple[object, ...]:
    value = row.value
    if not isinstance(value, JournalEntry):
        return _DAMAGED, "", ""
    return _short(value.message.topic), human_bytes(payload_bytes(row)), value.attempts


def _letter_cells(row: Row) -> tuple[object, ...]:
    value = row.value
    if not isinstance(value, DeadLetter):
        return "", _DAMAGED, "", "", ""
    size = human_bytes(payload_bytes(row))
    return value.sink or "-", value.reason, _short(value.topic), size, value.detail[:_DETAIL]


def _print(title: str, columns: list[str], found: Iterable[Row], cells: Callable[[Row], tuple[object, ...]]) -> None:
    rows = [(*_head(row), *cells(row)) for row in found]
    whole = ("id", "time", "size", "topic", "subject")
    print_table(f"{title} (times in UTC)", ["id", "time", "route", *columns], rows, whole=whole)


_TABLES = {"results": _print_results, "journal": _print_messages, "dead": _print_letters}


def _short(topic: str) -> str:
    """On one line, so that it can be searched for; `show` has all of it."""
    return topic if len(topic) <= _TOPIC else f"{topic[: _TOPIC // 2]}…{topic[1 - _TOPIC // 2 :]}"


def _head(row: Row) -> tuple[str, str, str]:
    value = row.value
    at = value.message.time if isinstance(value, JournalEntry) else value.time if value is not None else None
    return row.id, "" if at is None else event_time(at)[:19].replace("T", " "), row.route


def _sinks(row: Row) -> str:
    """ "had" is said for what a sink has got, refused or lost: the row does not know which."""
    return ", ".join([*(f"{sink}: pending" for sink in row.waiting), *(f"{sink}: done" for sink in row.had)])


def print_row(config: Path, wanted: str, *, as_json: bool) -> None:
    """All of one row. Raises GatewaydError when it is not there."""
    (pick,) = picks_of([wanted])
    with open_reader(config) as reader:
        row = next(Browser(reader.connection).rows(pick), None)
    if row is None:
        error = GatewaydError(f"{wanted} is not in the spool")
        error.hint = "it may have been delivered, handled, requeued or purged since: see `gatewayd spool ls`"
        raise error
    shown = as_object(row)
    if as_json:
        print_json(shown)
        return
    payload = shown.pop("payload", shown.pop("payload_hex", ""))
    for name, value in shown.items():
        words = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        typer.echo(f"{name:14} {words}")
    typer.echo(f"\n{payload}")


def as_object(row: Row) -> dict[str, Any]:
    """All of a row, for JSON: times in seconds since the epoch and in words."""
    value = row.value
    shown: dict[str, Any] = {"id": row.id, "route": row.route}
    if value is None:
        return {**shown, "damaged": True}
    if isinstance(value, StoredResult):
        fields = {"key": value.key, "kind": value.kind, "subject": value.subject, "traceparent": value.traceparent}
        sinks = dict.fromkeys(row.waiting, "pending") | dict.fromkeys(row.had, "done")
        return {**shown, **fields, **_times(value.time), "sinks": sinks, **_payload(value.data)}
    if isinstance(value, JournalEntry):
        return {**shown, **_message(value.message), "attempts": value.attempts, **_payload(value.message.payload)}
    more = {"sink": value.sink, "reason": value.reason, "detail": value.detail}
    fields = {"topic": value.topic, "key": value.key, "content_type": value.content_type}
    return {**shown, **more, **fields, "properties": value.properties, **_times(value.time), **_payload(value.payload)}


def _message(raw: RawMessage) -> dict[str, Any]:
    fields = {"topic": raw.topic, "key": raw.key, "qos": raw.qos, "retain": raw.retain}
    return {**fields, "content_type": raw.content_type, "properties": raw.properties, **_times(raw.time)}


def _times(at: float) -> dict[str, Any]:
    return {"time": at, "time_utc": event_time(at)}


def _payload(payload: bytes) -> dict[str, Any]:
    try:
        return {"size": len(payload), "payload": payload.decode()}
    except UnicodeDecodeError:
        return {"size": len(payload), "payload_hex": payload.hex()}
