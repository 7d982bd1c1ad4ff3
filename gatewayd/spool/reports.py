"""What a route has lost, told to the far side: a result of kind `loss` among the route's own.

Invariants: a route has at most one report that is not delivered, so reports cannot pile up; the figures count from the
making of the spool, so each report supersedes the ones before, and one that is lost or arrives twice does no harm; what
becomes of a report itself is counted in the books, as of any result, but makes no further report.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import apsw
import msgspec
import structlog

from gatewayd.errors import SpoolFull
from gatewayd.ports import NewResult, Work
from gatewayd.spool.ledger import Ledger
from gatewayd.spool.migrations import route_range
from gatewayd.spool.positions import Positions
from gatewayd.spool.sql import number

log = structlog.get_logger(__name__)

KIND = "loss"
_MADE = "made"  # name in `state`: when the spool was made, seconds since the epoch
_LINES = {"messages": ("dropped", "evicted", "expired", "dead"), "results": ("evicted", "expired", "refused")}
_LOST = frozenset(
    ("dropped", "evicted", "expired")
)  # dead letters are kept: they are told of, and are no reason to tell
_SETTLE_S = 1.0  # what is lost at once is told at once
_MESSAGES = ""  # stands among the sinks for the messages

_decode = msgspec.json.Decoder(dict[str, int]).decode
_encode = msgspec.json.encode

Lines = dict[str, dict[str, int]]  # line -> reason -> n


class Losing(Protocol):
    """The parts of the store that reports need."""

    connection: apsw.Connection
    ledger: Ledger
    positions: Positions
    emit: Callable[[str, Mapping[str, object]], None]

    @property
    def seq(self) -> int: ...

    def apply(self, work: Work) -> list[int]: ...


class Reports:
    """A chore: a report for each route that has lost something since the last one, at most every `every_s`.

    Args:
        now: wall clock, seconds since the epoch.
        time_text: RFC 3339 of such a time.
    """

    def __init__(
        self, store: Losing, *, every_s: float, now: Callable[[], float], time_text: Callable[[float], str]
    ) -> None:
        self._store = store
        self._every_s = every_s
        self._now = now
        self._time_text = time_text
        self._made_at_s: dict[str, float] = {}  # route -> when its last report was made, monotonic
        self._noticed_at_s: dict[str, float] = {}
        self._due: list[str] = []  # routes that `is_due` found
        self._now_s = 0.0
        made = store.connection.execute("SELECT value FROM state WHERE name = ?", (_MADE,)).get
        self._is_new = made is None and store.seq == 0
        self._made = now() if self._is_new else made

    def is_due(self, now_s: float) -> bool:
        """See chores.Chore."""
        self._now_s = now_s
        if self._is_new:
            query = "SELECT count(*) FROM state WHERE name = ?"
            self._is_new = not number(self._store.connection, query, (_MADE,))
        self._due = self._wanted()
        return self._is_new or bool(self._due)

    def run(self) -> None:
        """See chores.Chore."""
        if self._is_new:
            self._store.connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (_MADE, self._made))
        for route in self._due:
            self._made_at_s[route] = self._now_s  # also when there was no room: it is tried again then
            try:
                self._report(route)
            except SpoolFull:  # raised before anything was changed
                log.info("no room for the report of a loss, it is tried again", route=route, after_s=self._every_s)

    def _wanted(self) -> list[str]:
        figures = losses(self._store.ledger)
        routes = [route for route in figures if route in self._store.positions.route_ids and self._is_time(route)]
        grown = [route for route in routes if self._store.positions.sinks(route) and self._has_grown(route, figures)]
        self._noticed_at_s = {route: self._noticed_at_s.get(route, self._now_s) for route in grown}
        return [route for route in grown if self._now_s - self._noticed_at_s[route] >= _SETTLE_S]

    def _is_time(self, route: str) -> bool:
        made_at_s = self._made_at_s.get(route)
        return made_at_s is None or self._now_s - made_at_s >= self._every_s

    def _has_grown(self, route: str, figures: Mapping[str, Mapping[str, Lines]]) -> bool:
        row, counted = self._last(route)
        if number(self._store.connection, "SELECT count(*) FROM results WHERE id = ? AND kind = ?", (row, KIND)):
            return False  # on its way, or waiting for the link: what follows it will be newer
        unsent = [sink for sink in self._store.positions.sinks(route) if self._is_unresolved(route, sink, row)]
        return bool(unsent) or any(n > counted.get(sink, 0) for sink, n in _lost(figures[route]).items())

    def _last(self, route: str) -> tuple[int, dict[str, int]]:
        query = "SELECT row, counted FROM reports WHERE route = ?"
        row, text = self._store.connection.execute(query, (route,)).fetchone() or (0, "{}")
        try:
            return row, _decode(text)
        except msgspec.DecodeError:
            return 0, {}  # damaged: told once more

    def _is_unresolved(self, route: str, sink: str, row: int) -> bool:
        """Whether the report was evicted or has expired before the sink had it."""
        return row > 0 and bool(self._store.positions.gaps(route, sink, after=row - 1, upto=row))

    def _report(self, route: str) -> None:
        store = self._store
        figures = losses(store.ledger)[route]
        since = self._time_text(self._made) if isinstance(self._made, float) else None
        data: dict[str, Any] = {
            "route": route,
            "since": since or None,
            "messages": figures.get(_MESSAGES, _empty("messages")),
        }
        sinks = {*figures, *store.positions.sinks(route)} - {_MESSAGES}
        data["results"] = {sink: figures.get(sink, _empty("results")) for sink in sorted(sinks)}
        # Any unique key will do: it is stored with the report, so the report has it whenever it is sent.
        key = f"{KIND}-{secrets.token_hex(12)}"
        before = store.seq
        result = NewResult(key=key, kind=KIND, subject="", time=self._now(), data=_encode(data))
        store.apply(Work(route=route, results=[result]))
        row = route_range(store.positions.route_ids[route])[0] | store.seq if store.seq > before else 0
        # Without room for it, it is counted as evicted already: that alone makes no other.
        counted = _encode(_lost(figures if row else losses(store.ledger)[route])).decode()
        store.connection.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (route, row, counted))
        store.emit("loss_reported", {"route": route})
        log.warning("something was lost, the route's sinks are told", route=route, **_totals(figures))


def losses(ledger: Ledger) -> dict[str, dict[str, Lines]]:
    """What is not delivered and never will be: route -> sink ("" for messages) -> line -> reason -> n."""
    found: dict[str, dict[str, Lines]] = {}
    for (book, route, sink, line, reason), n in ledger.counters().items():
        if n and line in _LINES.get(book, ()):
            lines = found.setdefault(route, {}).setdefault(sink if book == "results" else _MESSAGES, _empty(book))
            lines[line][reason] = n
    return found


def _empty(book: str) -> Lines:
    return {line: {} for line in _LINES[book]}


def _lost(figures: Mapping[str, Lines]) -> dict[str, int]:
    """What a report is made for, by sink."""
    return {
        sink: sum(sum(reasons.values()) for line, reasons in lines.items() if line in _LOST)
        for sink, lines in figures.items()
    }


def _totals(figures: Mapping[str, Lines]) -> dict[str, int]:
    sinks: Sequence[str] = [sink for sink in figures if sink != _MESSAGES]
    lost: dict[str, Any] = _lost(figures)
    return {"messages": lost.get(_MESSAGES, 0), "results": max((lost[sink] for sink in sinks), default=0)}
