"""How texts are run through an encoder: alone, or in groups of like length. Measured when the model is loaded.

Invariant: groups are made only where a group gave each of its texts the vector that it gets alone. An int8 model whose
activations are quantized takes its scales from the whole batch, so that its answers depend on their neighbors.

A call costs `call_s`, and each of its tokens `token_s`, padding included. Both are fitted to a handful of calls.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Run = Callable[[Sequence[Sequence[int]]], Vectors]  # token ids of each text -> vectors [n, n_dimensions]

MAX_TEXTS = 16  # of a call
# Texts, tokens each, how often; a call is never larger than the largest that was measured.
_PROBES = ((4, 8, 2), (4, 32, 1))
_MAX_PADDING = 0.25  # share of a call's tokens: bounds what a choice costs that was measured on a busy box
_LEAST_GAIN = 0.05  # less than this share of the time is not worth a choice
_TOLERANCE = 1e-5  # of a unit vector's components: what rounding may do; quantization by batch gives 1e-3 and more


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was chosen. `max_texts` 1: each text alone."""

    why: str
    max_texts: int = 1
    max_tokens: int = 0  # of a call, padding included
    call_s: float = 0.0
    token_s: float = 0.0

    @property
    def max_padding_tokens(self) -> int:
        """Tokens of padding that cost as much as the call they save."""
        return int(self.call_s / self.token_s) if self.token_s > 0 else 0


ALONE = Plan(why="not measured")


def measure(run: Run, tokens: Sequence[int], *, max_s: float, clock: Callable[[], float] = time.thread_time) -> Plan:
    """Try both ways on texts made of `tokens` (a few hundred, of real words), and choose the faster one.

    No call is begun that would end after `max_s` by what was measured so far: a slow box measures less, and one that
    is too slow for the smallest probe runs each text alone.
    """
    began_s = clock()
    measured: list[tuple[int, float]] = []  # tokens of a call, seconds
    run([_text(tokens, 0, 8)])  # the first call of a session allocates: it says nothing
    for n_texts, length, n_times in _PROBES:
        rows = [_text(tokens, index, length - index % 2) for index in range(n_texts)]
        if measured:  # as many tokens alone as together, at the price of a token so far
            size, seconds = measured[-1]
            if clock() - began_s + 2 * n_times * n_texts * length * seconds / size > max_s:
                break
        alone_s, together_s = math.inf, math.inf
        for _ in range(n_times):  # in turn: what else the box does now hits both
            alone = [_timed(run, [row], clock) for row in rows]
            alone_s = min(alone_s, statistics.median(seconds for _, seconds in alone))
            if clock() - began_s + n_texts * alone_s > max_s:
                return _choose(measured)
            together, seconds = _timed(run, rows, clock)
            together_s = min(together_s, seconds)
        if not np.allclose(together, np.concatenate([vectors for vectors, _ in alone]), rtol=0, atol=_TOLERANCE):
            return Plan(why="in a batch a text gets another vector")
        measured += [(length, alone_s), (n_texts * length, together_s)]
    return _choose(measured)


def _choose(measured: Sequence[tuple[int, float]]) -> Plan:
    if not measured:
        return Plan(why="too slow to measure")
    n_texts = _PROBES[0][0]
    (_, alone_s), (_, together_s) = measured[:2]
    if together_s > (1 - _LEAST_GAIN) * n_texts * alone_s:
        return Plan(why="a batch is no faster")
    sizes, seconds = zip(*measured, strict=True)
    token_s, call_s = np.polyfit(np.array(sizes), np.array(seconds), deg=1)
    if token_s <= 0 or call_s <= 0:
        return Plan(why="a batch is no faster")
    return Plan(
        why="a batch is faster",
        max_texts=MAX_TEXTS,
        max_tokens=max(size for size, _ in measured),
        call_s=float(call_s),
        token_s=float(token_s),
    )


def _text(tokens: Sequence[int], offset: int, length: int) -> list[int]:
    return [tokens[(7 * offset + position) % len(tokens)] for position in range(length)]


def _timed(run: Run, rows: Sequence[Sequence[int]], clock: Callable[[], float]) -> tuple[Vectors, float]:
    began_s = clock()
    vectors = run(rows)
    return vectors, clock() - began_s


def grouped(lengths: Sequence[int], plan: Plan) -> list[list[int]]:
    """Indices of the texts of each call: the cheapest partition of the texts sorted by length.

    Dynamic programming over where the groups end: of all ways to cut the sorted texts into runs, the one whose calls
    and (padded) tokens cost least. O(n * max_texts).
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    least_s = [0.0]
    begins: list[int] = []
    for end, index in enumerate(order, start=1):
        width = lengths[index]
        most = max(1, min(plan.max_texts, plan.max_tokens // max(width, 1), end))
        costs = []
        n_tokens = 0
        for n in range(1, most + 1):
            n_tokens += lengths[order[end - n]]
            if n_tokens < (1 - _MAX_PADDING) * n * width:
                break  # shorter ones yet would only make it worse
            costs.append((least_s[end - n] + plan.call_s + n * width * plan.token_s, end - n))
        cost_s, begin = min(costs)
        least_s.append(cost_s)
        begins.append(begin)
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(begins[cuts[-1] - 1])
    return [order[begin:end] for begin, end in pairwise(reversed(cuts))]
