"""Logs: one JSON object a line for a machine, color for a person. Never a payload, never a secret.

Under the journal a line begins with its syslog level (`<N>`, sd-daemon(3)) and has no time of its own: journald's do.
"""

import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import nullcontext
from typing import Any, TextIO

import structlog

from gatewayd.config.environment import Environment
from gatewayd.config.schema import Log
from gatewayd.repeats import Repeats

log = structlog.get_logger(__name__)

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Any]

_MASKED_WORDS = frozenset({"password", "passwd", "token", "secret", "payload", "authorization", "credential"})
_WORD = re.compile("[a-z]+")
_SYSLOG = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_MAX_LINE = 500  # characters of a value in the tail
_NOT_SHOWN = {"event", "level", "timestamp", "logger", "exc_info", "exception", "stack_info"}
_REPEATS = Repeats()  # of the process, as the logs are: a reload must not forget what was held back
_LEAST_LOOK_S = 0.1  # between two looks at what was held back
_MAX_KEYS = 1000  # remembered: they come from config and code, this is for the day they do not


def set_up(config: Log, environment: Environment, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's logs to `stream` (standard error) as the config says."""
    out = stream or sys.stderr
    in_journal = is_journal(out, environment)
    as_json = config.format == "json" or (config.format == "auto" and not out.isatty())
    shared = _shared(with_time=not in_journal)
    _REPEATS.configure(config.repeat_s, config.repeat_burst)
    structlog.configure(
        processors=[*shared, _REPEATS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_level(config)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Not cached: a reload changes the level of loggers that modules hold. Log lines are rare enough to pay for it.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(as_json, in_journal)],
        )
    )
    handler.addFilter(LibraryRepeats(config.repeat_s, time.monotonic))
    root = logging.getLogger()
    tails = [one for one in root.handlers if isinstance(one, LogTail)]  # a reload leaves them
    root.handlers[:] = [handler, *tails]
    root.setLevel(_level(config))


async def tell_left_out(repeat_s: float) -> None:
    """Run until cancelled: say how many lines were held back, for those that did not come again since."""
    import asyncio  # not at the top: it takes a fifth of a second on a small box, and commands log, too

    while True:
        await asyncio.sleep(max(_LEAST_LOOK_S, repeat_s))
        for about, n in _REPEATS.take_left_out():
            event = str(about.pop("event", ""))
            about.pop("level", None)
            about["said_by"] = about.pop("logger", "")
            log.info("log lines were left out", line=event, left_out=n, **about)


def _shared(*, with_time: bool) -> list[Processor]:
    steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        mask,
    ]
    if with_time:
        steps.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    return steps


def _rendering(as_json: bool, in_journal: bool) -> list[Processor]:
    if not as_json:
        return [structlog.dev.ConsoleRenderer(colors=not in_journal)]
    # One line an event: a traceback becomes a field of it.
    render = structlog.processors.JSONRenderer(default=repr)
    return [structlog.processors.format_exc_info, _with_syslog_level(render) if in_journal else render]


def _with_syslog_level(render: Processor) -> Processor:
    def prefixed(logger: Any, method: str, event: Event) -> str:
        number = _SYSLOG.get(str(event.get("level", "info")), 6)
        return f"<{number}>{render(logger, method, event)}"

    return prefixed


def mask(_logger: Any, _method: str, event: Event) -> Event:
    """Hide what is named like a secret or a payload, should somebody log one."""
    for key, value in event.items():
        # A number is a count or a size: `payload_bytes` may be seen.
        if not isinstance(value, int | float | None) and not _MASKED_WORDS.isdisjoint(_WORD.findall(key.lower())):
            event[key] = "***"
    return event


def is_journal(stream: TextIO, environment: Environment) -> bool:
    """Whether `stream` goes to journald: `$JOURNAL_STREAM` names its device and inode (systemd.exec(5))."""
    if environment.journal_stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.journal_stream == f"{status.st_dev}:{status.st_ino}"


def _level(config: Log) -> int:
    return logging.getLevelNamesMapping()[config.level.upper()]


class LibraryRepeats:
    """Lets a library say the same thing once in `repeat_s`: that an OTLP receiver is away is news but once."""

    def __init__(self, repeat_s: float, monotonic: Callable[[], float]) -> None:
        self._repeat_s = repeat_s
        self._monotonic = monotonic
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged. Our own events are not strings here, and they are never left out."""
        if not isinstance(record.msg, str):
            return True
        # The text before its arguments: "Transient error %s …" is the same each time.
        key, now = (record.name, record.msg), self._monotonic()
        last_s = self._said.get(key)
        if last_s is not None and now - last_s < self._repeat_s:
            return False
        if len(self._said) >= _MAX_KEYS:
            self._said.clear()
        self._said[key] = now
        return True


class LogTail(logging.Handler):
    """The latest log lines in memory, for the page and `gatewayd tail`. Each has a number, so that gaps show.

    Masked as the log itself is, and without tracebacks: those are for the log.
    """

    def __init__(self, max_lines: int, repeat_s: float) -> None:
        super().__init__()
        self.addFilter(LibraryRepeats(repeat_s, time.monotonic))
        self.lines: deque[dict[str, Any]] = deque(maxlen=max_lines)
        self.n = 0

    def begin(self) -> None:
        """From now on."""
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """One line. May be called from any thread, under the handler's lock."""
        said = record.msg if isinstance(record.msg, dict) else {"event": str(record.getMessage())[:_MAX_LINE]}
        fields = {
            name: value if isinstance(value, int | float | bool | None) else str(value)[:_MAX_LINE]
            for name, value in said.items()
            if name not in _NOT_SHOWN
        }
        self.n += 1
        event = str(said.get("event", ""))
        head = {"number": self.n, "time": record.created, "level": record.levelname.lower(), "event": event}
        self.lines.append({**head, "logger": record.name, "fields": fields})

    def since(self, number: int) -> list[dict[str, Any]]:
        """The lines after that one, the oldest first."""
        with self.lock or nullcontext():
            return [line for line in self.lines if line["number"] > number]


class RateLimited:
    """Says a failure once, then at most every `repeat_s` with the number left out, then that it is over."""

    def __init__(self, repeat_s: float, monotonic: Callable[[], float]) -> None:
        self._repeat_s = repeat_s
        self._monotonic = monotonic
        self._said: dict[str, _Failure] = {}

    def log(self, key: str, event: str, *, level: str = "warning", **values: Any) -> None:
        """Log `event` unless the same `key` was logged less than `repeat_s` ago."""
        now = self._monotonic()
        failure = self._said.get(key)
        if failure is None:
            if len(self._said) >= _MAX_KEYS:
                self._said.pop(next(iter(self._said)))
            self._said[key] = _Failure(now)
            getattr(log, level)(event, **values)
        elif now - failure.last_s >= self._repeat_s:
            getattr(log, level)(event, left_out=failure.left_out, **values)
            failure.last_s, failure.left_out, failure.n = now, 0, failure.n + 1
        else:
            failure.left_out += 1
            failure.n += 1

    def recovered(self, key: str, event: str, **values: Any) -> None:
        """Log `event` if `key` had failed: how often, and for how long."""
        failure = self._said.pop(key, None)
        if failure is not None:
            after_s = round(self._monotonic() - failure.first_s, 3)
            log.info(event, failures=failure.n, after_s=after_s, **values)


class _Failure:
    """What was said about one failure, and what was not."""

    __slots__ = ("first_s", "last_s", "left_out", "n")

    def __init__(self, now: float) -> None:
        self.first_s = self.last_s = now
        self.left_out = 0
        self.n = 1
