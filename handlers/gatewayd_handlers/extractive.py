"""A summary without a model: what the facts of a window say, put into the form of a summary. Pure."""

from datetime import UTC, datetime

from gatewayd_handlers.summary_facts import Facts, Statement
from gatewayd_handlers.summary_form import (
    MAX_COUNTS,
    MAX_DEVICES,
    MAX_HEADLINE_CHARS,
    MAX_NAME_CHARS,
    MAX_TEXT_CHARS,
    Count,
    Summary,
    shortened,
)

_NAMED = 3  # statements that `what_happened` quotes


def summarize(facts: Facts) -> Summary:
    """The summary of a window: its worst and most frequent statements in their own words."""
    return Summary(
        headline=shortened(_headline(facts), MAX_HEADLINE_CHARS),
        what_happened=shortened(_what_happened(facts), MAX_TEXT_CHARS),
        severity=facts.severity,
        devices=devices(facts),
        counts=counts(facts),
    )


def devices(facts: Facts) -> list[str]:
    """The devices named most often."""
    return [shortened(name, MAX_NAME_CHARS) for name in facts.devices[:MAX_DEVICES]]


def counts(facts: Facts) -> list[Count]:
    """How often the first statements were made."""
    return [Count(pattern(statement), statement.n) for statement in facts.statements[:MAX_COUNTS]]


def pattern(statement: Statement, max_chars: int = MAX_NAME_CHARS) -> str:
    """The statement as one line: its words where they were the same each time; said once, the text itself."""
    words = statement.example if statement.n == 1 else " ".join(statement.words)
    return shortened(words, max_chars) or "(no words)"


def clock(time: float) -> str:
    """A time of day, UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%S")


def _headline(facts: Facts) -> str:
    if not facts.statements:
        return "No messages"
    worst = facts.statements[0]
    times = f"{worst.n} times: " if worst.n > 1 else ""
    return f"{times}{pattern(worst, MAX_HEADLINE_CHARS - 20)}"


def _what_happened(facts: Facts) -> str:
    if not facts.statements:
        return "There was nothing to read."
    said = "; ".join(_quoted(statement) for statement in facts.statements[:_NAMED])
    return f"{_number(facts.n_texts, 'message')} of {_number(len(facts.statements), 'kind')}. {said}."


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _quoted(statement: Statement) -> str:
    when = clock(statement.first)
    if statement.n > 1:
        when = f"{when} to {clock(statement.last)}" if statement.last > statement.first else when
        return f"{statement.n} times, {when}: {pattern(statement, 80)}"
    return f"once, {when}: {pattern(statement, 80)}"
