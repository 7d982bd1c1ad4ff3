"""A site handler that some payloads are poison to. Read by the daemon as a file of `[handlers] paths`."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from gatewayd.api import Batch, Models, Result


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    hang_s: Annotated[float, Meta(ge=0, description="How long `hang` hangs, in seconds.")] = 3600.0


class Poison:
    """Answers with the payload, unless that is a text that says what to do instead."""

    Config: ClassVar[type[msgspec.Struct]] = Options
    journaled: ClassVar[bool] = False
    inline: ClassVar[bool] = False

    def __init__(self, config: Options) -> None:
        self.hang_s = config.hang_s

    def start(self, models: Models) -> None: ...

    def stop(self) -> None: ...

    def handle(self, batch: Batch) -> Sequence[Result]:
        for message in batch.messages:
            self.suffer(message.value)
        return [Result(kind="echo", data={"value": message.value}, message=message) for message in batch.messages]

    def suffer(self, value: object) -> None:
        if value == "exit":
            os._exit(3)
        if value == "abort":
            os.abort()
        if value == "raise":
            raise ValueError(value)
        if value == "leave":
            sys.exit(4)
        if value == "hang":
            time.sleep(self.hang_s)


class Inline(Poison):
    """The same on the event loop: what hangs here stops everything."""

    inline: ClassVar[bool] = True


HANDLERS = {"poison": Poison, "inline_poison": Inline}
