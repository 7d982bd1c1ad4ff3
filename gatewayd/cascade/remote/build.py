"""From a table `[tiers.<name>]` to its client."""

from collections.abc import Callable

from gatewayd.cascade.budgets import Book, Budget
from gatewayd.cascade.remote.breaker import Breaker
from gatewayd.cascade.remote.client import RemoteTierClient, TierReport
from gatewayd.cascade.remote.dialect import Dialect
from gatewayd.cascade.remote.exchange import Exchange
from gatewayd.cascade.remote.http import HttpDialect
from gatewayd.cascade.remote.kserve import KServeDialect
from gatewayd.cascade.remote.openai import OpenAIDialect
from gatewayd.config.tiers import HttpTier, KServeTier, OpenAITier
from gatewayd.http_link import HttpLink
from gatewayd.ports import Clock, Draw

HELD = "tier/{}"  # the name under which the spool keeps a tier's pause; no sink can have it


def _forget(_delay_s: float) -> None:
    pass


def build_client(
    name: str,
    config: OpenAITier | KServeTier | HttpTier,
    *,
    gateway: str,
    token: str | None,
    book: Book,
    clock: Clock,
    draw: Draw,
    report: TierReport,
    repeat_s: float = 30.0,
    held_s: float = 0.0,
    hold: Callable[[float], None] = _forget,
) -> RemoteTierClient:
    """The client of one tier outside of this box.

    Args:
        gateway: this gateway's id.
        token: sent as bearer token.
        book: where what it costs is kept.
        repeat_s: how often the same failure is logged.
        held_s: what is left of a pause that the tier asked for before a restart.
        hold: told of each such pause, to keep it.

    Raises ConfigError when a TLS file cannot be used, or the URL holds a password.
    """
    link = HttpLink(
        config.url,
        key=f"tiers.{name}",
        token=token,
        tls=config.tls,
        connect_timeout_s=config.timeout_s,
        max_answer_bytes=config.max_answer_bytes,
        now=clock.now,
    )
    dialect = _dialect(name, config, gateway)
    budget = Budget.of(name, config, book=book, clock=clock)
    breaker = Breaker(
        name,
        retry_max_s=config.retry_max_s,
        repeat_s=repeat_s,
        clock=clock,
        draw=draw,
        report=report,
        held_s=held_s,
        hold=hold,
    )
    exchange = Exchange(name, config, dialect, link=link, budget=budget, clock=clock)
    return RemoteTierClient(name, config, dialect, exchange=exchange, breaker=breaker, report=report)


def _dialect(name: str, config: OpenAITier | KServeTier | HttpTier, gateway: str) -> Dialect:
    if isinstance(config, OpenAITier):
        return OpenAIDialect(name, config)
    if isinstance(config, KServeTier):
        return KServeDialect(name, config)
    return HttpDialect(name, gateway, config.max_batch)
