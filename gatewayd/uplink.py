"""Uplink: move results from the spool to the sink, in order within a route or each share of it, at least once.

A result leaves the spool in exactly two ways: the sink stored it, or refused it for good (a dead letter). Everything
else is a retry, for ever. No I/O here: see the protocols.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from gatewayd.config import schema
from gatewayd.crash import NO_CRASH, CrashPoint
from gatewayd.delivery import TOO_LARGE, Delivery, Part, Settled
from gatewayd.doubt import Doubt, refuses_everything
from gatewayd.errors import BatchRefused, BatchTooLarge, ConfigError, SinkUnavailable
from gatewayd.gate import Gate, GateReport, Room, Standing, reason_of
from gatewayd.ports import Clock, Draw, Lease, Share, Sink, Spool, StoredResult
from gatewayd.throttle import Throttle
from gatewayd.turns import Turns

log = structlog.get_logger(__name__)

_PROBES = 8  # while a sink is away live results ask for it so often, then older ones may once
_REFUSED_WAIT_S = 3600.0
_SHARES: tuple[Share, ...] = ("live", "older")


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkConfig:
    """The limits of one sink's uplink: those of `[sinks.<name>]`, `[spool]` and `[log]` that concern it."""

    max_batch: int = 256
    max_batch_bytes: int = 524_288
    live_first: frozenset[str] = frozenset()  # routes whose fresh results go before those that wait from an outage
    max_yield_s: float = 2.0  # so long, at most, older results give way to live ones before they send one request
    max_probe: int = 16  # most results in the request that asks whether a sink is back
    timeout_s: float = 30.0
    retry_max_s: float = 300.0
    refused_wait_s: float = _REFUSED_WAIT_S  # so long a sink that refuses everything is not believed
    lease_s: float = 120.0
    repeat_s: float = 30.0

    @classmethod
    def of(
        cls, sink: schema.Sink, repeat_s: float, lease_s: float = 120.0, live_first: Collection[str] = ()
    ) -> "UplinkConfig":
        """The limits of `[sinks.<name>]`. Raises ConfigError when its time limit outlasts a lease."""
        return cls(
            max_batch=sink.max_batch,
            max_batch_bytes=sink.max_batch_bytes,
            timeout_s=sink.timeout_s,
            retry_max_s=sink.retry_max_s,
            refused_wait_s=sink.refused_wait_s if isinstance(sink, schema.HttpSink) else _REFUSED_WAIT_S,
            lease_s=lease_s,
            repeat_s=repeat_s,
            live_first=frozenset(live_first),
        )

    def __post_init__(self) -> None:
        if self.timeout_s >= self.lease_s:
            raise ConfigError("sinks.<name>.timeout_s", f"must be shorter than spool.lease_s ({self.lease_s:g} s)")


class UplinkReport(GateReport, Protocol):
    """Who counts what the uplink does."""

    def sent(self, sink: str, route: str, n: int, n_bytes: int, seconds: float) -> None:
        """A request was answered: `n` results with `n_bytes` of data were stored, in `seconds`."""

    def retried(self, sink: str, route: str, reason: str, delay_s: float, words: str = "") -> None:
        """A request was not confirmed (`words`: why); its results are due again after `delay_s`."""

    def refused(self, sink: str, route: str, n: int) -> None:
        """`n` results were refused for good and buried."""

    def upload(self, sink: str, route: str, results: Sequence[StoredResult]) -> AbstractContextManager[object]:
        """Around one request: the place for a span, with links to the results' own traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uplink:
    """What the tasks of one sink share."""

    sink_name: str
    spool: Spool
    sink: Sink
    config: UplinkConfig
    clock: Clock
    report: UplinkReport
    gate: Gate
    room: Room
    turns: Turns
    doubt: Doubt
    throttle: Throttle
    crash: CrashPoint


async def run_uplink(
    sink_name: str,
    routes: Sequence[str],
    spool: Spool,
    sink: Sink,
    config: UplinkConfig,
    *,
    draw: Draw,
    clock: Clock,
    report: UplinkReport,
    throttle: Throttle | None = None,
    crash: CrashPoint = NO_CRASH,
) -> None:
    """Run until cancelled. One task a route, or two where live results go first: order within each, none between."""
    gate = Gate(
        sink_name,
        retry_max_s=config.retry_max_s,
        repeat_s=config.repeat_s,
        draw=draw,
        clock=clock,
        report=report,
        held_s=spool.held_s(sink_name),
        hold=partial(spool.hold, sink_name),
    )
    room = Room(max_batch=config.max_batch, max_batch_bytes=config.max_batch_bytes, max_probe=config.max_probe)
    up = _Uplink(
        sink_name=sink_name,
        spool=spool,
        sink=sink,
        config=config,
        clock=clock,
        report=report,
        gate=gate,
        room=room,
        turns=Turns(max_yield_s=config.max_yield_s, clock=clock),
        doubt=Doubt(wait_s=config.refused_wait_s, clock=clock),
        throttle=throttle or Throttle.none(sink_name, sink, clock=clock, report=report),
        crash=crash,
    )
    async with asyncio.TaskGroup() as tasks:
        for route in routes:
            for share in _SHARES if route in config.live_first else ("all",):
                standing = Standing(route, share=share)
                tasks.create_task(_run_share(up, standing), name=f"uplink[{sink_name}/{route}/{share}]")


async def _run_share(up: _Uplink, standing: Standing) -> None:
    # Being cancelled is the same as losing power: the lease lapses, the results are sent again, and their ids make
    # that harmless. So nothing here is shielded or cleaned up.
    settled = Settled()
    if standing.share == "live":
        up.turns.take(standing.route)  # until we know better
    while True:
        await up.gate.wait(standing)
        if await up.throttle.wait():
            _divide(up)
            continue  # the gate may have closed meanwhile
        lease = await _lease(up, standing)
        if up.gate.is_away and len(lease.results) > up.room.limits(probe=True)[0]:
            await up.spool.nack(lease, delay_s=0.0)  # it went away while we waited: ask for it with less
            continue
        delivery = Delivery(lease.results, settled)
        delay_s = await _deliver(up, standing, delivery)
        if delay_s is not None:
            await up.spool.nack(lease, delay_s=delay_s)
            continue
        refused = delivery.outcome()
        never = [why for why in refused.values() if why != TOO_LARGE]
        if up.doubt.begins(standing.who, n_results=len(lease.results), n_refused=len(never)):
            await up.spool.nack(lease, delay_s=_disbelieve(up, standing, never[-1]))
            continue
        up.crash.reach("uplink.after_answer")
        await up.spool.ack(lease, refused=refused)
        up.crash.reach("uplink.after_ack")
        if refused:
            _tell_refused(up, standing.route, refused)


async def _lease(up: _Uplink, standing: Standing) -> Lease:
    limit, max_bytes = up.throttle.limits(*up.room.limits(probe=up.gate.is_away))
    if up.doubt.is_active:
        limit = 1  # one result asks whether the sink has come to its senses
    sink, route, share = up.sink_name, standing.route, standing.share
    if share == "live":
        lease = await up.spool.try_lease(sink, route, limit=limit, max_bytes=max_bytes, share=share)
        if lease is not None:
            up.turns.take(route)
            return lease
        up.turns.rest(route)
    lease = await up.spool.lease(sink, route, limit=limit, max_bytes=max_bytes, share=share)
    if share == "live":
        up.turns.take(route)
    return lease


async def _deliver(up: _Uplink, standing: Standing, delivery: Delivery) -> float | None:
    """Send part after part; None when all are settled, else seconds until the lease's results are due again."""
    began_s = up.clock.monotonic()
    n_requests = 0
    while part := delivery.next():
        # A lease must not lapse in our hands. What is settled stays settled, so each turn makes progress.
        if n_requests and up.clock.monotonic() - began_s + up.config.timeout_s > up.config.lease_s:
            return 0.0
        is_older = standing.share == "older"
        if is_older:
            await up.turns.give_way(is_away=up.gate.is_away)
        until_s = began_s + up.config.lease_s - up.config.timeout_s
        fare = await up.throttle.enter(standing.route, part, is_live=standing.share == "live", until_s=until_s)
        if fare is None:
            return 0.0  # `throttle.wait` says when, or it is this one's turn soon
        ticket = up.gate.enter()
        if ticket is None:
            up.throttle.leave(fare, is_sent=False)
            return 0.0  # not the time: `gate.wait` says when
        n_requests += 1
        sent_at_s = up.clock.monotonic()
        try:
            delay_s = await _send(up, standing, delivery, part, ticket)
        finally:
            up.throttle.leave(fare)
        if delay_s is not None:
            return delay_s
        if is_older:
            up.turns.took(up.clock.monotonic() - sent_at_s)
    return None


async def _send(up: _Uplink, standing: Standing, delivery: Delivery, part: Part, ticket: int) -> float | None:
    """Send one part and settle it; seconds to wait when the sink did not confirm it."""
    began_s = up.clock.monotonic()
    was_away = up.gate.is_away
    up.crash.reach("uplink.before_send")
    try:
        with up.report.upload(up.sink_name, standing.route, part):
            async with asyncio.timeout(up.config.timeout_s):
                refused = await up.sink.send(part)
    except (SinkUnavailable, TimeoutError) as exc:
        if isinstance(exc, TimeoutError) and not was_away:
            up.room.shrink()  # perhaps the link is too slow for so much
        return _not_confirmed(up, standing, ticket, exc)
    except BatchTooLarge:
        up.room.shrink()
        delivery.too_large()
    except BatchRefused as exc:
        if up.doubt.is_active:
            return _not_confirmed(up, standing, ticket, refuses_everything(str(exc)))
        delivery.refused(str(exc))
    else:
        delivery.stored(refused)
        up.room.fitted()
        taken = [len(result.data) for result in part if result.key not in refused]
        if taken:
            up.doubt.stored(standing.who)
        up.report.sent(up.sink_name, standing.route, len(taken), sum(taken), up.clock.monotonic() - began_s)
    up.gate.worked(ticket, standing)
    if was_away and not up.gate.is_away:
        _divide(up)
    return None


def _disbelieve(up: _Uplink, standing: Standing, why: str) -> float:
    """Close the gate as for a sink that is misconfigured; seconds until the results are due again."""
    ticket = up.gate.enter()
    if ticket is None:
        return 0.0  # it is closed: `gate.wait` says when
    return _not_confirmed(up, standing, ticket, refuses_everything(why))


def _not_confirmed(up: _Uplink, standing: Standing, ticket: int, cause: Exception) -> float:
    delay_s = up.gate.failed(ticket, standing, cause)
    words = str(cause) or "no answer in time"
    up.report.retried(up.sink_name, standing.route, reason_of(cause), delay_s, words)
    # What waits now is older by the time the sink is back, and what asks for it next is as fresh as can be.
    if up.gate.is_away:
        _divide(up)
    if standing.share == "live":
        _take_turn(up, standing)
    return delay_s


def _take_turn(up: _Uplink, standing: Standing) -> None:
    # Older results may ask now and then as well: it may be these live ones that the far side chokes on.
    if up.gate.is_away and standing.failures % _PROBES:
        up.turns.take(standing.route)
    else:
        up.turns.rest(standing.route)


def _divide(up: _Uplink) -> None:
    for route in up.config.live_first:
        up.spool.divide(up.sink_name, route)


def _tell_refused(up: _Uplink, route: str, refused: dict[str, str]) -> None:
    up.report.refused(up.sink_name, route, len(refused))
    key, why = next(iter(refused.items()))
    log.error(
        "sink refused results for good",
        sink=up.sink_name,
        route=route,
        n=len(refused),
        first_key=key,
        first_reason=why.partition(":")[0],  # what follows are the far side's words, and may quote the data
        hint="they are dead letters now: `gatewayd dead list`",
    )
