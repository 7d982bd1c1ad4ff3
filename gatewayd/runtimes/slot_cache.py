"""Which slot of the engine answers which prompt, and what a slot has computed before the prompt comes.

Invariant: a prompt that begins with a kept text finds that text computed, in whichever slot it is answered: the slot
that had it last, or one into which its state is read from a file just before (2 ms for 500 tokens of a 270 M model,
where computing them took 4 s). Without files the engine computes what it misses, as it always does.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from gatewayd.errors import TransientError
from gatewayd.runtimes.prefix_files import PrefixFiles

_LEAST_SHARE = 10  # a slot that has less than a tenth of the prompt is no better than any other


class SlotEngine(Protocol):
    """What is asked of the engine. `slot` counts from 0."""

    def compute(self, slot: int, text: str) -> None:
        """Read `text` into the slot. Raises RejectedError, TransientError."""

    def save(self, slot: int, name: str) -> bool:
        """Write the slot's state to the file of that name in the folder of states; False when that fails."""

    def restore(self, slot: int, name: str) -> bool:
        """Read the slot's state; False when the engine does not take it."""


@dataclass(slots=True)
class _Slot:
    index: int
    text: str = ""  # the last prompt it read; "" when nobody knows what it has
    is_free: bool = True
    used: int = 0  # ascending


class SlotCache:
    """The slots of one engine. Every method may be called from any thread."""

    def __init__(self, engine: SlotEngine, n_slots: int, files: PrefixFiles | None, max_prefixes: int) -> None:
        self.n_restored = 0
        self.n_computed = 0
        self._engine = engine
        self._slots = [_Slot(index) for index in range(n_slots)]
        self._files = files
        self._max_prefixes = max_prefixes
        self._kept: OrderedDict[str, str | None] = OrderedDict()  # text: the file with its state
        self._changed = threading.Condition()
        self._n_uses = 0

    def keep(self, text: str) -> bool:
        """From now on a prompt that begins with `text` finds it computed; True when it was read from a file.

        Raises RejectedError, TransientError.
        """
        slot = self._take(text)
        try:
            slot.text = ""
            name, is_restored = self._prepare(slot, text)
            slot.text = text
        finally:
            self._give_back(slot)
        self._kept[text] = name
        self._kept.move_to_end(text)
        while len(self._kept) > self._max_prefixes:
            self._kept.popitem(last=False)
        self.n_restored += is_restored
        self.n_computed += not is_restored
        return is_restored

    def fill(self) -> None:
        """Put the text kept last into every free slot that has none of the kept ones."""
        with self._changed:
            free = [slot for slot in self._slots if slot.is_free and not self._kept_for(slot.text)]
            for slot in free:
                slot.is_free = False
        for slot in free:
            try:
                if self._kept:
                    self._read(slot, next(reversed(self._kept)))
            finally:
                self._give_back(slot)

    @contextmanager
    def slot(self, prompt: str) -> Iterator[int]:
        """Inside, the slot is ours, and has what can be had of the prompt without computing it."""
        slot = self._take(prompt)
        try:
            kept = self._kept_for(prompt)
            if kept and not slot.text.startswith(kept):
                self._read(slot, kept)
            slot.text = prompt
            yield slot.index
        except BaseException:
            slot.text = ""  # cut off anywhere
            raise
        finally:
            self._give_back(slot)

    def _prepare(self, slot: _Slot, text: str) -> tuple[str | None, bool]:
        """Read or compute `text` into the slot: the file with its state, and whether it was read from it."""
        name = self._files.find(text) if self._files else None
        if name is not None and self._engine.restore(slot.index, name):
            return name, True
        self._engine.compute(slot.index, text)
        if self._files is None or not self._engine.save(slot.index, self._files.part(text)):
            return None, False
        try:
            return self._files.keep(text), False
        except OSError:  # a full disk: then it is computed after the next start, too
            return None, False

    def _read(self, slot: _Slot, kept: str) -> None:
        name = self._kept.get(kept)
        if name is None:
            return
        if self._engine.restore(slot.index, name):
            slot.text = kept
        else:  # gone, evicted for another model's: the engine computes what is missing
            self._kept[kept] = None

    def _kept_for(self, prompt: str) -> str:
        """The longest kept text that the prompt begins with; "" when there is none."""
        return max((text for text in list(self._kept) if prompt.startswith(text)), key=len, default="")

    def _take(self, prompt: str) -> _Slot:
        """The free slot that shares most with the prompt; of equals the one that was not used for the longest."""
        kept = self._kept_for(prompt)
        with self._changed:
            # There are as many threads as slots, so this never waits long; it must not wait for ever either.
            if not self._changed.wait_for(lambda: any(slot.is_free for slot in self._slots), timeout=60.0):
                raise TransientError("no slot of the engine became free")

            def worth(slot: _Slot) -> tuple[int, int]:
                shared = _n_shared(slot.text, prompt)
                is_better = shared >= len(kept) and shared * _LEAST_SHARE >= len(prompt)
                return (shared if is_better else 0, -slot.used)

            best = max((slot for slot in self._slots if slot.is_free), key=worth)
            best.is_free = False
            return best

    def _give_back(self, slot: _Slot) -> None:
        with self._changed:
            self._n_uses += 1
            slot.used = self._n_uses
            slot.is_free = True
            self._changed.notify()


def _n_shared(one: str, other: str) -> int:
    """How many characters both begin with; by halves, because comparing slices is quick."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
