"""How probable each label is as the continuation of a prompt: the walk over the labels' tokens. Pure.

Invariant: what comes out is the model's own probability of each label, every token of it counted, divided by the sum
over the labels: nothing is sampled, and no label is cut short. `P(label) = product of P(token | prompt, tokens
before)`, the definition of a language model; labels that share their first tokens share the questions about them.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from gatewayd.errors import RejectedError

# Natural logarithms of the probabilities of `wanted` as the next token after `tokens`.
Ask = Callable[[Sequence[int], Collection[int]], Mapping[int, float]]


def label_probabilities(sequences: Sequence[Sequence[int]], ask: Ask) -> list[float]:
    """Of each sequence (the tokens of prompt and label together) its share among all of them; they sum to 1.

    Raises RejectedError when there are fewer than two, when one is the beginning of another, or when the model gives
    none of them any probability.
    """
    if len(sequences) < 2:
        raise RejectedError("scores need two labels at least", reason="labels")
    _check_none_begins_another(sequences)
    logarithms = [0.0] * len(sequences)
    _walk(sequences, list(range(len(sequences))), len(_common(sequences)), ask, logarithms)
    highest = max(logarithms)
    if not math.isfinite(highest):
        raise RejectedError("the model gives none of the labels any probability", reason="labels")
    weights = [math.exp(logarithm - highest) for logarithm in logarithms]
    return [weight / sum(weights) for weight in weights]


def _walk(
    sequences: Sequence[Sequence[int]], members: Sequence[int], depth: int, ask: Ask, logarithms: list[float]
) -> None:
    """Add what each member's tokens from `depth` on contribute. Depth first: the engine goes on where it was."""
    branches: dict[int, list[int]] = {}
    for member in members:
        if len(sequences[member]) > depth:
            branches.setdefault(sequences[member][depth], []).append(member)
    if not branches:
        return
    found = ask(sequences[members[0]][:depth], branches.keys())
    for token, followers in branches.items():
        for member in followers:
            logarithms[member] += found[token]
        _walk(sequences, followers, depth + 1, ask, logarithms)


def _common(sequences: Sequence[Sequence[int]]) -> Sequence[int]:
    """The tokens that all begin with."""
    ordered = sorted(list(sequence) for sequence in sequences)
    first, last = ordered[0], ordered[-1]  # whatever lies between has as much in common
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return first[:shared]


def _check_none_begins_another(sequences: Sequence[Sequence[int]]) -> None:
    ordered = sorted(list(sequence) for sequence in sequences)
    for before, after in pairwise(ordered):
        if after[: len(before)] == before:
            raise RejectedError(
                "a label is the beginning of another, or the same: end each with what follows it, a line break say",
                reason="labels",
            )
