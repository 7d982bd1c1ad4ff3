"""The walk over the labels' tokens, with a language model that is a table."""

import math
import random
from collections.abc import Collection, Mapping, Sequence

import pytest

from gatewayd.errors import RejectedError
from gatewayd.runtimes.label_scores import label_probabilities

PROMPT = (1, 2, 3)


class TableModel:
    """P(token | tokens before), drawn once for each beginning; `asked` are the beginnings that were asked about."""

    def __init__(self, seed: int, n_tokens: int = 8) -> None:
        self.asked: list[tuple[int, ...]] = []
        self._seed = seed
        self._n_tokens = n_tokens

    def p(self, before: Sequence[int], token: int) -> float:
        draw = random.Random(f"{self._seed} {tuple(before)}")
        weights = [draw.random() ** 4 for _ in range(self._n_tokens)]
        return weights[token] / sum(weights)

    def ask(self, tokens: Sequence[int], wanted: Collection[int]) -> Mapping[int, float]:
        self.asked.append(tuple(tokens))
        return {token: math.log(self.p(tokens, token)) for token in wanted}

    def of_label(self, label: Sequence[int]) -> float:
        steps = [(*PROMPT, *label[:i]) for i in range(len(label))]
        return math.prod(self.p(before, token) for before, token in zip(steps, label, strict=True))


def sequences(*labels: Sequence[int]) -> list[Sequence[int]]:
    return [(*PROMPT, *label) for label in labels]


@pytest.mark.parametrize("seed", range(20))
def test_each_label_gets_the_product_of_its_tokens_as_a_share_of_all(seed: int) -> None:
    model = TableModel(seed)
    labels = [(4,), (5, 6), (5, 7, 1), (0, 0, 0, 2)]

    found = label_probabilities(sequences(*labels), model.ask)

    alone = [model.of_label(label) for label in labels]
    assert found == pytest.approx([p / sum(alone) for p in alone])
    assert sum(found) == pytest.approx(1.0)


def test_labels_of_one_token_cost_one_question() -> None:
    model = TableModel(0)

    label_probabilities(sequences((4,), (5,), (6,)), model.ask)

    assert model.asked == [PROMPT]


def test_no_beginning_is_asked_about_twice() -> None:
    model = TableModel(0)

    label_probabilities(sequences((5, 6, 1), (5, 6, 2), (5, 7), (4,)), model.ask)

    assert len(model.asked) == len(set(model.asked)) == 3


def test_what_all_labels_begin_with_is_part_of_the_prompt() -> None:
    model = TableModel(3)

    with_shared = label_probabilities(sequences((7, 4), (7, 5)), model.ask)

    assert model.asked == [(*PROMPT, 7)]
    assert with_shared[0] == pytest.approx(
        model.p((*PROMPT, 7), 4) / (model.p((*PROMPT, 7), 4) + model.p((*PROMPT, 7), 5))
    )


@pytest.mark.parametrize("labels", [[(4,), (4, 5)], [(4, 5), (6,), (4,)], [(4,), (4,)], [(4,)], []])
def test_labels_that_cannot_be_told_apart_are_rejected(labels: list[Sequence[int]]) -> None:
    with pytest.raises(RejectedError) as caught:
        label_probabilities(sequences(*labels), TableModel(0).ask)

    assert caught.value.reason == "labels"


def test_labels_that_the_model_finds_impossible_are_rejected() -> None:
    with pytest.raises(RejectedError):
        label_probabilities(sequences((4,), (5,)), lambda _tokens, wanted: dict.fromkeys(wanted, -math.inf))


def test_very_improbable_labels_still_share_one() -> None:
    logarithms = {4: -900.0, 5: -901.0}

    found = label_probabilities(sequences((4,), (5,)), lambda _tokens, _wanted: logarithms)

    assert found == pytest.approx([1 / (1 + math.exp(-1)), math.exp(-1) / (1 + math.exp(-1))])
