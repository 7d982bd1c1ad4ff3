"""A site handler that takes its time. Read by the daemon as a file of `[handlers] paths`."""

import time
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from gatewayd.api import Batch, Models, Result


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How slow."""

    pause_ms: Annotated[float, Meta(ge=0, description="How long each message takes, in milliseconds.")] = 1.0


class Slow:
    """Answers each message after a pause."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = False
    inline: ClassVar[bool] = False

    def __init__(self, config: Options) -> None:
        self._pause_s = config.pause_ms / 1000

    def start(self, models: Models) -> None:
        """Nothing to load."""

    def stop(self) -> None:
        """Nothing to give back."""

    def handle(self, batch: Batch) -> Sequence[Result]:
        """One result a message."""
        time.sleep(self._pause_s * len(batch.messages))
        return [Result(kind="echo", data={}, message=message) for message in batch.messages]


HANDLERS = {"slow": Slow}
