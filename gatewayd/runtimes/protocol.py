"""What daemon and worker say to each other: MessagePack frames over a socket pair, told apart by an id.

A frame is its length (4 bytes, big-endian) and that many bytes. Both ends are of the same version of gatewayd.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from gatewayd.runtimes.options import TextOptions

MAX_FRAME_BYTES = 64 << 20  # far above any prompt a context could take: a larger length is a broken stream
_LENGTH_BYTES = 4


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all frames."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far a worker steps back for the rest of the box."""

    nice: int = 0  # added to the daemon's own
    policy: str = "other"  # of sched(7): "other", "batch", "idle"
    cpus: tuple[int, ...] = ()  # cores it may use; empty: all that the daemon has


class Load(_Frame, frozen=True):
    """Daemon to worker, first and once: what to load."""

    runtime: str
    model_path: str
    options: TextOptions
    threads: int
    max_memory_bytes: int  # RLIMIT_AS; 0: none
    scratch_dir: str  # a folder of the worker's own (mode 0700), removed by the daemon
    place: Place = Place()
    identity: str = ""  # of the model's file and options: what a computed state depends on
    cache_dir: str = ""  # where the states of static prompts are kept over restarts; "": nowhere
    max_cache_bytes: int = 256 << 20  # of those, or of the states kept while the worker lives
    max_prefixes: int = 16
    draft_path: str = ""  # a small model that drafts; "": there is none
    draft_measure_s: float = 0.0  # how long it may take to measure, once, whether drafts are faster; 0: no drafts
    prefixes: list[str] = []  # static prompts, to be computed before the first call


class Complete(_Frame, frozen=True):
    """Daemon to worker: write on from `prompt`."""

    id: int
    prompt: str
    max_tokens: int
    json_schema: dict[str, Any] | None
    grammar: str | None
    stop: list[str]
    temperature: float
    seed: int
    deadline_s: float  # on the machine's monotonic clock, which both ends share


class Score(_Frame, frozen=True):
    """Daemon to worker: how probable is each of `labels` as the continuation of `prompt`?"""

    id: int
    prompt: str
    labels: list[str]
    deadline_s: float


class Keep(_Frame, frozen=True):
    """Daemon to worker: prompts will begin with `text`."""

    id: int
    text: str
    deadline_s: float


class Count(_Frame, frozen=True):
    """Daemon to worker: how many tokens?"""

    id: int
    text: str


class Ping(_Frame, frozen=True):
    """Daemon to worker: are you there?"""

    id: int


class Stats(_Frame, frozen=True):
    """Daemon to worker: how large are you?"""

    id: int


class Cancel(_Frame, frozen=True):
    """Daemon to worker: end this completion between two tokens, and answer it with `Cancelled`. Of one that is over or
    unknown nothing comes."""

    id: int


class Ready(_Frame, frozen=True):
    """Worker to daemon, first: the model is loaded."""

    context_tokens: int
    parallel: int  # how many completions may run at once
    prefixes_restored: int = 0  # of Load.prefixes: read from a file
    prefixes_computed: int = 0
    drafts: str = "none"  # what guesses tokens ahead: "none", "ngram", "model"
    draft_gain: float = 0.0  # how many times as fast as "none" that was measured to be; 0: not measured


class Completed(_Frame, frozen=True):
    """Worker to daemon: the answer; fields as of api.Completion."""

    id: int
    text: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    finish: str


class Scored(_Frame, frozen=True):
    """Worker to daemon: the answer to Score; one probability a label, in order, together 1."""

    id: int
    probabilities: list[float]
    tokens_in: int
    tokens_cached: int


class Kept(_Frame, frozen=True):
    """Worker to daemon: the answer to Keep."""

    id: int
    is_restored: bool  # read from a file, not computed


class Number(_Frame, frozen=True):
    """Worker to daemon: the answer to Count (tokens), Ping (0) and Stats (resident bytes)."""

    id: int
    value: int


class Refused(_Frame, frozen=True):
    """Worker to daemon: this call failed, the worker lives. An empty `reason`: the same call may succeed later."""

    id: int
    problem: str
    reason: str = ""


class Cancelled(_Frame, frozen=True):
    """Worker to daemon: this completion was ended as asked; what it had written is gone."""

    id: int


Slotted = Complete | Score | Keep  # what takes a slot, and can be ended by Cancel
Call = Slotted | Count | Ping | Stats
Request = Load | Call | Cancel
Reply = Ready | Completed | Scored | Kept | Number | Refused | Cancelled


IsCancelled = Callable[[], bool]  # in the worker: whether the call at hand shall end between two tokens


class CallEndedError(Exception):
    """In the worker: the daemon wants the slot of this call for another one."""


class Link:
    """One end of the socket pair. `send` may be called from any thread, `receive` from one."""

    def __init__(self, connection: socket.socket, incoming: Any) -> None:
        self._connection = connection
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._sending = threading.Lock()

    def send(self, frame: Request | Reply) -> None:
        """Raises OSError when the other end is gone."""
        content = self._encoder.encode(frame)
        with self._sending:
            self._connection.sendall(len(content).to_bytes(_LENGTH_BYTES, "big") + content)

    def receive(self) -> Any:
        """The next frame; None when the other end is gone. Raises msgspec.DecodeError on what is no frame."""
        header = self._read(_LENGTH_BYTES)
        if header is None:
            return None
        size = int.from_bytes(header, "big")
        if size > MAX_FRAME_BYTES:
            raise msgspec.DecodeError(f"a frame of {size} bytes")
        content = self._read(size)
        return None if content is None else self._decoder.decode(content)

    def close(self) -> None:
        """End the conversation: the other end reads the end of the stream."""
        with contextlib.suppress(OSError):  # the other end was quicker
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self, size: int) -> bytes | None:
        content = bytearray()
        while len(content) < size:
            try:
                chunk = self._connection.recv(size - len(content))
            except OSError:
                return None
            if not chunk:
                return None
            content += chunk
        return bytes(content)
