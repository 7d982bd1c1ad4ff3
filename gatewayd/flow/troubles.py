"""What is wrong right now, in words that say what happens next; nothing is said of what is well. Pure.

The page, `gatewayd top` and `gatewayd status` show the same sentences.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_NEARLY_FULL = 0.9
Trouble = dict[str, str]


def troubles_of(flow: Mapping[str, Any]) -> list[Trouble]:
    """Each `{"level": "error" | "warning", "where", "words", "hint"}`, errors first; `flow`: gatewayd.flow.snapshot."""
    found = [*_broker(flow), *_routes(flow), *_spool(flow), *_sinks(flow), *_board(flow)]
    return sorted(found, key=lambda trouble: trouble["level"] != "error")


def _trouble(level: str, where: str, words: str, hint: str) -> Trouble:
    return {"level": level, "where": where, "words": words, "hint": hint}


def _broker(flow: Mapping[str, Any]) -> Iterator[Trouble]:
    broker = flow["broker"]
    place = f"{broker['host']}:{broker['port']}"
    if not broker["connected"]:
        words = f"The broker at {place} is not connected: no messages come in."
        yield _trouble("error", "broker", words, "It is tried again and again. Does it run? `gatewayd doctor` asks it.")
    elif not broker["subscribed"]:
        words = f"The broker at {place} is connected, but has not confirmed the subscriptions."
        yield _trouble(
            "warning", "broker", words, "If this stays: may this user read these topics? See the broker's log."
        )


def _routes(flow: Mapping[str, Any]) -> Iterator[Trouble]:
    for name, route in flow["routes"].items():
        if route["state"] == "waiting for its model":
            words = f"Route {name} waits for its model: {route['problem'] or 'it does not load'}."
            hint = "Its messages are kept in the journal. `gatewayd models verify` says what is damaged; see the log."
            yield _trouble("error", f"routes.{name}", words, hint)


def _spool(flow: Mapping[str, Any]) -> Iterator[Trouble]:
    spool, books = flow["spool"], flow["books"]
    if books and not books["balanced"]:
        yield _trouble("error", "spool", "The books do not balance.", "`gatewayd spool audit` says where.")
    share = spool["used_bytes"] / spool["max_bytes"]
    if share > _NEARLY_FULL:
        words = f"The spool is {share:.0%} full; beyond its cap results are given up as each route's `when_full` says."
        yield _trouble("warning", "spool", words, "Bring the sink back, or raise spool.max_bytes.")
    if n := spool["dead_letters"]:
        words = f"{n} dead letter{'' if n == 1 else 's'} wait{'s' if n == 1 else ''} for a person."
        yield _trouble("warning", "spool", words, "Read them, then requeue or purge them.")


def _sinks(flow: Mapping[str, Any]) -> Iterator[Trouble]:
    for name, sink in flow["sinks"].items():
        n = sink["pending"]
        waits = f"{n} result{'' if n == 1 else 's'} wait{'s' if n == 1 else ''} in the spool, and nothing is lost"
        if sink["state"] == "away":
            why = f" ({sink['last_error']['words']})" if sink["last_error"] else ""
            words = f"Sink {name} is away{why}. {waits} before the spool's cap."
            yield _trouble(
                "warning", f"sinks.{name}", words, "It is tried again and again; delivery goes on by itself."
            )
        elif sink["state"] == "over its monthly cap":
            words = f"Sink {name} has used up its bytes of this month; {waits}."
            yield _trouble(
                "warning", f"sinks.{name}", words, "It goes on next month, or with a larger max_bytes_per_month."
            )


def _board(flow: Mapping[str, Any]) -> Iterator[Trouble]:
    if flow["board"].get("hot"):
        causes = ", ".join(map(str, flow["board"].get("causes", ()))) or "temperature"
        words = f"The board is hot or throttled ({causes}); low priorities give way."
        yield _trouble("warning", "board", words, "More air or a better power supply.")
