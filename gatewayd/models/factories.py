"""How a bundle becomes a session: what a session must offer to be kept here, and which runtime makes it.

Invariant: a runtime's library is imported when the first bundle that needs it is loaded, not before.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gatewayd.config import schema
from gatewayd.models.bundle import Bundle, Runtime

if TYPE_CHECKING:
    from gatewayd.runtimes.scheduler import Scheduler

OnEvent = Callable[[str, str], None]  # (model, event); events: see gatewayd.models.store
OnCompletion = Callable[[str, float], None]  # (model, seconds)
Files = Mapping[str, Path]


class Session(Protocol):
    """What the store needs of any session; the rest is api.TensorSession or api.TextSession."""

    def close(self) -> None: ...

    def stats(self) -> Mapping[str, float]:
        """Totals so far, but for those in `GAUGES`, which are as of now."""


GAUGES = frozenset({"load_s", "resident_bytes", "waiting", "waiting_bytes", "running"})


@runtime_checkable
class Timed(Protocol):
    """A language model's session: it tells how long each completion took, in seconds."""

    on_completion: Callable[[float], None]


@runtime_checkable
class Warmable(Protocol):
    """A session that can be tried with an input of its own making."""

    def warm(self) -> None:
        """Run once, so that what a first call allocates is allocated. Raises ModelError when it cannot be run."""


# The files are verified by calling: once by a session that loads once, before every start by one that restarts.
Verify = Callable[[], Files]
Factory = Callable[[Bundle, Verify, schema.Models, OnEvent], Session]


def _load_onnx(bundle: Bundle, verify: Verify, config: schema.Models, _on_event: OnEvent) -> Session:
    from gatewayd.runtimes.onnx import load

    return load(bundle, verify(), config)


def _load_worker(
    bundle: Bundle,
    verify: Verify,
    config: schema.Models,
    on_event: OnEvent,
    *,
    cache_dir: Path | None = None,
    box: "BoxScheduler | None" = None,
) -> Session:
    from gatewayd.runtimes.worker import load

    return load(bundle, verify, config, on_event, cache_dir, None if box is None else box.get(config))


FACTORIES: Mapping[Runtime, Factory] = {"onnx": _load_onnx, "xllamacpp": _load_worker, "llama_cpp": _load_worker}


class BoxScheduler:
    """Whose turn it is among all language models of a box: made with the first of them."""

    def __init__(self) -> None:
        self._scheduler: Scheduler | None = None
        self._making = threading.Lock()

    def get(self, config: schema.Models) -> "Scheduler":
        from gatewayd.runtimes.worker import box_scheduler

        with self._making:
            if self._scheduler is None:
                self._scheduler = box_scheduler(config)
            return self._scheduler


def factories(cache_dir: Path) -> Mapping[Runtime, Factory]:
    """FACTORIES, with a folder for what language models compute once and use again after a restart, and one order of
    their calls."""
    load_worker = partial(_load_worker, cache_dir=cache_dir, box=BoxScheduler())
    return {**FACTORIES, "xllamacpp": load_worker, "llama_cpp": load_worker}
