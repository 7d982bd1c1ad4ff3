"""Dead letters for the page: to read, to requeue, to purge.

Invariant: nothing here changes the spool itself. What is asked for becomes an order in it, as the command line's, and
the spool's own thread carries it out (docs/adr/2026-11-21-orders-in-the-spool.md). A payload is shown only where the
route's `include_input` shows it anyway, or where it is a result that a sink refused.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import msgspec
import structlog
from aiohttp import web

from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.ports import DeadLetter
from gatewayd.spool.browse import Browser, Pick, Row, parse_id, payload_bytes
from gatewayd.spool.orders import Answer, Desk, OrderUnansweredError, What
from gatewayd.spool.reader import SpoolReader
from gatewayd.web.access import Access

log = structlog.get_logger(__name__)

MAX_LISTED = 200
_DETAIL = 300  # characters of a letter's detail in the list
_MAX_SHOWN = 65536  # of a payload, as much as a dead letter keeps
_WAIT_S = 8.0  # an order that takes longer goes on by itself
_MAX_IDS = 1000

_HIDDEN = "not shown: the route's include_input is off. `gatewayd spool show` shows it on the box."


class Wanted(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be requeued or purged: `ids`, or (`all` = true) those of a route, sink or reason."""

    ids: list[str] = []
    all: bool = False
    route: str = ""
    sink: str = ""
    reason: str = ""


_decode = msgspec.json.Decoder(Wanted).decode


class Letters:
    """Serves /dead. `shows_input(route)`: whether payloads of the route may be seen."""

    def __init__(
        self,
        spool: Path,
        access: Access,
        shows_input: Callable[[str], bool],
        changed: Callable[[str, int], None],
    ) -> None:
        self._spool = spool
        self._access = access
        self._shows_input = shows_input
        self._changed = changed
        self._desk = asyncio.Lock()

    async def ls(self, request: web.Request) -> web.Response:
        """`GET /dead[?route=&sink=&reason=&limit=]`: `letters`, the newest first, and whether there are `more`."""
        query = request.query
        limit = _number(query.get("limit", "50"))
        pick = Pick(
            table="dead", route=query.get("route", ""), sink=query.get("sink", ""), reason=query.get("reason", "")
        )
        rows = await self._read(lambda browser: list(islice(browser.rows(pick, newest_first=True), limit + 1)))
        return _json({"letters": [self._in_short(row) for row in rows[:limit]], "more": len(rows) > limit})

    async def show(self, request: web.Request) -> web.Response:
        """`GET /dead/d:1`: all of one."""
        number = _letter(request.match_info["id"])
        rows = await self._read(lambda browser: list(browser.rows(Pick(table="dead", ids=(number,)))))
        if not rows:
            raise web.HTTPNotFound(text="this dead letter is not in the spool any more\n")
        return _json(self._whole(rows[0]))

    async def requeue(self, request: web.Request) -> web.Response:
        """`POST /dead/requeue`: bring them back."""
        return await self._change(request, "requeue")

    async def purge(self, request: web.Request) -> web.Response:
        """`POST /dead/purge`: give them up for good."""
        return await self._change(request, "purge")

    async def _change(self, request: web.Request, what: What) -> web.Response:
        """200 with what came of it; 202 where the daemon goes on with it by itself."""
        self._access.check_change(request)
        pick = _pick(await request.read())
        async with self._desk:
            try:
                answer = await asyncio.to_thread(_give, self._spool, what, pick)
            except OrderUnansweredError as error:
                self._tell(request, what, pick, None)
                return _json({"waits": True, "words": f"{error}; {error.hint}"}, status=202)
            except (GatewaydError, apsw.Error) as error:
                raise web.HTTPServiceUnavailable(text=f"{error}\n", headers={"Retry-After": "5"}) from None
        self._tell(request, what, pick, answer)
        n_missing = 0 if answer.error else max(0, len(pick.ids) - answer.n - sum(answer.left.values()))
        said = {"n": answer.n, "left": answer.left, "examples": answer.examples, "error": answer.error}
        return _json({"waits": False, **said, "missing": n_missing})

    def _tell(self, request: web.Request, what: What, pick: Pick, answer: Answer | None) -> None:
        """Who did what: the audit line."""
        n = 0 if answer is None else answer.n
        self._changed(what, n)
        log.warning(
            "dead letters changed over the page",
            what=what,
            remote=request.remote,
            ids=[f"d:{number}" for number in pick.ids[:20]],
            n_ids=len(pick.ids),
            route=pick.route,
            sink=pick.sink,
            reason=pick.reason,
            n=n,
            left=0 if answer is None else sum(answer.left.values()),
        )

    async def _read(self, read: Callable[[Browser], list[Row]]) -> list[Row]:
        def reading() -> list[Row]:
            with SpoolReader.open(self._spool) as reader:
                return read(Browser(reader.connection))

        try:
            return await asyncio.to_thread(reading)
        except (ConfigError, apsw.Error) as error:
            raise web.HTTPServiceUnavailable(text=f"the spool cannot be read now: {error}\n") from None

    def _in_short(self, row: Row) -> dict[str, Any]:
        letter = row.value
        said: dict[str, Any] = {"id": row.id, "route": row.route}
        if not isinstance(letter, DeadLetter):
            return {**said, "damaged": True}
        fields = {"sink": letter.sink, "reason": letter.reason, "topic": letter.topic, "time": letter.time}
        return {**said, **fields, "size": payload_bytes(row), "detail": self._detail(letter)[:_DETAIL]}

    def _whole(self, row: Row) -> dict[str, Any]:
        letter = row.value
        if not isinstance(letter, DeadLetter):
            return self._in_short(row)
        said = {**self._in_short(row), "detail": self._detail(letter), "key": letter.key}
        said["content_type"] = letter.content_type
        if not self._shows(letter):
            return {**said, "payload": None, "hidden": _HIDDEN}
        return {**said, "payload": letter.payload[:_MAX_SHOWN].decode(errors="replace"), "hidden": ""}

    def _shows(self, letter: DeadLetter) -> bool:
        return bool(letter.sink) or self._shows_input(letter.route)

    def _detail(self, letter: DeadLetter) -> str:
        """A traceback ends with what the handler said, which may quote the payload: its kind alone is shown then."""
        if letter.reason != "handler_error" or self._shows(letter):
            return letter.detail
        last = letter.detail.strip().rsplit("\n", 1)[-1]
        return f"the handler raised {last.partition(':')[0][:100]}"


def _give(spool: Path, what: What, pick: Pick) -> Answer:
    desk = Desk(spool)
    try:
        return desk.give(what, pick, wait_s=_WAIT_S, progress=lambda _n: None, limit_s=_WAIT_S)
    finally:
        desk.close()


def _pick(body: bytes) -> Pick:
    try:
        wanted = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=f"the body is not what is asked for: {error}\n") from None
    if wanted.all == bool(wanted.ids):
        raise web.HTTPBadRequest(text='say either "ids" or "all": true\n')
    if len(wanted.ids) > _MAX_IDS:
        raise web.HTTPBadRequest(text=f"at most {_MAX_IDS} ids at once\n")
    ids = tuple(dict.fromkeys(_letter(each) for each in wanted.ids))
    return Pick(table="dead", ids=ids, route=wanted.route, sink=wanted.sink, reason=wanted.reason)


def _letter(text: str) -> int:
    try:
        table, number = parse_id(text)
    except (GatewaydError, ValueError):
        table, number = "results", 0
    if table != "dead" or number >= 1 << 62:
        raise web.HTTPBadRequest(text="this is no id of a dead letter: they look like d:12\n")
    return number


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise web.HTTPBadRequest(text="limit must be a number\n")
    return max(1, min(MAX_LISTED, int(text)))


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
