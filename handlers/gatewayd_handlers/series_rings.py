"""The last samples of each device, and the windows that end with each new one.

Nothing of a ring changes until `commit`: a batch whose inference fails can be handled again as if it had never come.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gatewayd_handlers.devices import Recent

Array = NDArray[np.float32]


class Ring:
    """What is remembered of one device. `samples` holds its last n, the newest at the end; `count` of them are real."""

    __slots__ = ("count", "label", "samples", "time")

    def __init__(self, n: int, n_fields: int) -> None:
        self.samples: Array = np.zeros((n, n_fields), np.float32)
        self.count = 0
        self.time = 0.0
        self.label = ""  # the last one answered, for `emit = "changes"`


# By device: its ring, and where it will stand after the commit: end in `scratch`, count, time, restarts.
Groups = dict[str, tuple["Ring", int, int, float, int]]


class Pending:
    """Samples that are not committed yet: `windows` [k, n, fields] in the order of `ready`."""

    __slots__ = ("groups", "ready", "scratch", "windows")

    def __init__(self, groups: Groups, scratch: Array, ready: list[int], windows: Array) -> None:
        self.groups = groups
        self.scratch = scratch
        self.ready = ready  # indices of the samples whose ring is full with them, ascending
        self.windows = windows


class Rings:
    """Rings of the `max_devices` devices seen last. `max_gap_s` 0: no gap restarts a ring."""

    def __init__(self, n: int, n_fields: int, *, max_devices: int, max_gap_s: float) -> None:
        self.n = n
        self.n_restarted = 0  # rings begun anew after a gap in message time
        self._n_fields = n_fields
        self._max_gap_s = max_gap_s if max_gap_s > 0 else float("inf")
        self._offsets = np.arange(n)
        self.devices: Recent[Ring] = Recent(max_devices, lambda: Ring(n, n_fields))

    def take_over(self, before: "Rings") -> None:
        """What `before` remembers of its devices, as many samples as fit here."""
        for device, ring in before.devices.items():
            mine = self.devices.get(device)
            mine.count = min(ring.count, self.n)
            if mine.count:
                mine.samples[-mine.count :] = ring.samples[-mine.count :]
            mine.time, mine.label = ring.time, ring.label

    def prepare(self, devices: Sequence[str], times: Sequence[float], rows: Array) -> Pending:
        """Lay the new samples behind what each ring holds, and cut the windows that are full.

        Args:
            rows: [len(devices), fields], finite.
        """
        groups: dict[str, list[int]] = {}  # by device: indices of its samples, ascending
        for index, device in enumerate(devices):
            groups.setdefault(device, []).append(index)
        n = self.n
        scratch = np.empty((len(groups) * n + len(devices), self._n_fields), np.float32)
        ends = [0] * len(devices)  # end of the window of sample i in `scratch`; 0 while its ring is not full
        plan: Groups = {}
        at = 0
        for device, members in groups.items():
            ring = self.devices.get(device)
            scratch[at : at + n] = ring.samples
            at += n
            scratch[at : at + len(members)] = rows[members]
            count, time, restarts = ring.count, ring.time, 0
            for offset, index in enumerate(members, at + 1):
                if count and abs(times[index] - time) > self._max_gap_s:
                    count, restarts = 0, restarts + 1
                count, time = count + 1, times[index]
                if count >= n:
                    ends[index] = offset
            at += len(members)
            plan[device] = (ring, at, min(count, n), time, restarts)
        ready = [index for index, end in enumerate(ends) if end]
        starts = np.array([ends[index] - n for index in ready], np.intp)
        return Pending(plan, scratch, ready, scratch[starts[:, None] + self._offsets])

    def commit(self, pending: Pending) -> None:
        """Make the samples part of the rings."""
        n = self.n
        for ring, end, count, time, restarts in pending.groups.values():
            ring.samples[:] = pending.scratch[end - n : end]
            ring.count, ring.time = count, time
            self.n_restarted += restarts
