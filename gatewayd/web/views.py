"""What the endpoints show, as the server sees it; the wiring gives it."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Answer = Mapping[str, Any]


class Shown(Protocol):
    """A result for people."""

    def shown(self) -> dict[str, Any]: ...


class Listener(Protocol):
    """The results that wait to be sent to one who follows, and how many were left out."""

    @property
    def waiting(self) -> deque[Any]: ...

    n_left_out: int


class Flow(Protocol):
    """See gatewayd.flow.watch."""

    def flow(self) -> bytes: ...

    def history(self) -> dict[str, Any]: ...

    def look(self) -> None: ...

    @property
    def n_points(self) -> int: ...

    def listening(self, route: str, room: int) -> AbstractContextManager[Listener]: ...


class Log(Protocol):
    """The tail of the daemon's log: see gatewayd.logs.LogTail."""

    def since(self, number: int) -> Sequence[Mapping[str, Any]]: ...


class Switch(Protocol):
    """Something that can be on or off, as the demo's cloud."""

    def shown(self) -> dict[str, Any]:
        """`words`, and whether it is `on`."""

    def set(self, wanted: bool, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What the endpoints show. `metrics` is called in a thread, the others in the event loop."""

    metrics: Callable[[], bytes]  # Prometheus text
    stuck: Callable[[], str | None]  # the part that does not move, in words; None: alive
    ready: Callable[[], str | None]  # what is still missing, in words; None: spool open and routes running
    status: Callable[[], Answer]
    books: Callable[[], Awaitable[Answer]]
    flow: Flow | None = None
    log: Log | None = None
    spool: Path | None = None  # the spool's file; None: dead letters are not shown
    shows_input: Callable[[str], bool] = lambda _route: False  # whether payloads of the route may be seen
    denied: Callable[[str], None] = lambda _why: None  # somebody was turned away
    changed: Callable[[str, int], None] = lambda _what, _n: None  # so many dead letters were requeued or purged
    switches: Mapping[str, Switch] = field(default_factory=dict)
