"""What we have subscribed to, kept on disk: the broker keeps our subscriptions longer than the config names them.

Invariant: every filter that the broker may still hold for us is in the file, because it is written before subscribing
and shortened after unsubscribing. Damaged, it is as good as missing: then an old subscription may go on delivering.
"""

import os
from pathlib import Path

import msgspec
import structlog

from gatewayd.disk import sync

log = structlog.get_logger(__name__)

_MAX_SESSIONS = 8  # brokers and client ids; the one used longest ago is forgotten
_MAX_STALE = 4096  # filters to unsubscribe from; more only when no broker was reached over many changes of the config
_MAX_GENERATIONS = 3
MAX_IDENTIFIER = 268_435_455  # MQTT 5.0, section 3.8.2.1.2


class Subscription(msgspec.Struct, frozen=True, array_like=True):
    """One subscription as we asked for it."""

    filter: str
    qos: int
    identifier: int = 0  # the subscription identifier its deliveries carry; 0: none
    is_refused: bool = False


Generation = tuple[Subscription, ...]  # subscribed together, in ascending order of identifier


class Subscribed(msgspec.Struct, frozen=True):
    """What one mqtt_session holds, as far as we know."""

    generations: tuple[Generation, ...] = ()  # newest first; messages of older ones may still wait at the broker
    stale: tuple[str, ...] = ()  # filters of older generations, not yet unsubscribed from

    @property
    def current(self) -> Generation:
        """What was asked for last."""
        return self.generations[0] if self.generations else ()

    def bounded(self) -> "Subscribed":
        """Without what is older than we can make use of."""
        return Subscribed(self.generations[:_MAX_GENERATIONS], self.stale[-_MAX_STALE:])


class Remembered:
    """The file, as seen by one mqtt_session.

    Args:
        path: the file; None: remember nothing over a restart.
        session: names the mqtt_session: broker address and client id.
    """

    def __init__(self, path: Path | None = None, session: str = "") -> None:
        self._path = path
        self._session = session

    def load(self) -> Subscribed:
        """What was kept last; nothing when there is no file, or none that can be read."""
        return self._read().get(self._session, Subscribed())

    def save(self, subscribed: Subscribed) -> None:
        """Return when it is on disk. A disk that does not take it is logged: subscribing matters more."""
        if self._path is None:
            return
        sessions = self._read()
        sessions.pop(self._session, None)
        sessions[self._session] = subscribed.bounded()
        kept = dict(list(sessions.items())[-_MAX_SESSIONS:])
        try:
            _write(self._path, msgspec.json.encode(kept))
        except OSError as exc:
            log.warning("subscriptions could not be remembered", file=str(self._path), cause=str(exc))

    def _read(self) -> dict[str, Subscribed]:
        if self._path is None:
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Subscribed])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            hint = "filters that left the config since the last start may still deliver until the mqtt_session expires"
            log.warning("remembered subscriptions are of no use", file=str(self._path), cause=str(exc), hint=hint)
            return {}


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync(path.parent)
