"""What one route notes in passing, so that somebody who looks later sees its latest results and how long they took.

Invariant: a note costs the same for a batch of one message and of a thousand (about half a microsecond), and memory is
bounded in count and in bytes, whether anybody looks or not.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gatewayd.ports import NewResult

MAX_COMMITS = 64  # commits remembered between two looks
MAX_BATCHES = 512  # batches that quantiles are made of
MAX_RESULT_BYTES = 4096  # the data of a result that is kept; larger ones are not shown
DEPTH_WATCHED = 16  # newest results kept of a commit while somebody looks; one otherwise


class Took(NamedTuple):
    """One batch: when it was answered (seconds since the epoch), how many messages, and the two times it took."""

    at: float
    n: int
    call_s: float  # the handler's call
    age_s: float  # from the arrival of the batch's first message to its answer


class Committed(NamedTuple):
    """One commit: the results of the route so far, how many were its own, and the newest of them."""

    n_before: int
    n: int
    newest: Sequence[NewResult]


class Glance:
    """The notes of one route. On the event loop's thread."""

    __slots__ = ("batches", "commits", "depth", "n_results")

    def __init__(self) -> None:
        self.n_results = 0  # since the start
        self.depth = 1
        self.batches: deque[Took] = deque(maxlen=MAX_BATCHES)
        self.commits: deque[Committed] = deque(maxlen=MAX_COMMITS)

    def answered(self, at: float, n: int, call_s: float, age_s: float) -> None:
        """The handler answered a batch."""
        self.batches.append(Took(at, n, call_s, age_s))

    def committed(self, results: Sequence[NewResult]) -> None:
        """Results of the route are in the spool."""
        newest = [result for result in results[-self.depth :] if len(result.data) <= MAX_RESULT_BYTES]
        self.commits.append(Committed(self.n_results, len(results), newest))
        self.n_results += len(results)

    def take(self) -> list[Committed]:
        """The commits since the last call, the oldest first; of very many the newest."""
        taken = list(self.commits)
        self.commits.clear()
        return taken


def quantiles_ms(times_s: Iterable[tuple[float, int]]) -> dict[str, float] | None:
    """p50 and p99 in milliseconds of times with their weights (messages); None of nothing."""
    ordered = sorted(times_s)
    total = sum(n for _, n in ordered)
    if not total:
        return None
    said: dict[str, float] = {}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        left = share * total
        for time_s, n in ordered:
            left -= n
            if left <= 0:
                said[name] = round(time_s * 1000, 3)
                break
    said.setdefault("p99", round(ordered[-1][0] * 1000, 3))  # rounding may leave a grain at the end
    return {"p50": said.get("p50", said["p99"]), "p99": said["p99"]}
