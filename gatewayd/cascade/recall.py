"""What a tier has answered before is not asked again: logs repeat, and a cloud is paid by the question.

Invariants: off unless the tier's config says `recall`; an answer is given again for the same question alone (its labels
and its redacted value, exact or by template), and never when it is older than `max_recall_age_s`. Bounded, the one used
longest ago goes first; forgotten at a restart: what is lost is asked again. An answer given again costs nothing.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec

from gatewayd.cascade.verdict import Question, Refusal, Verdict

Mode = Literal["off", "exact", "template"]
Answers = Sequence[Verdict | Refusal]
Ask = Callable[[Sequence[Question]], Awaitable[Answers]]

# One log statement with other numbers: words of hex digits with a digit among them, then every number.
_HEX = re.compile(r"\b(?:0x[0-9a-f]+|(?=[a-f]*\d)[0-9a-f]{6,})\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode


def template_of(text: str) -> str:
    """The text with every number read as 0."""
    return _NUMBER.sub("0", _HEX.sub("0", text))


class Recall:
    """Answers of one tier. Not for several threads."""

    def __init__(self, mode: Mode, *, max_answers: int, max_age_s: float) -> None:
        self._mode = mode
        self._max_answers = max_answers
        self._max_age_s = max_age_s
        self._answers: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def key(self, question: Question) -> bytes:
        """Stands for what is asked. By template a text is the same with other numbers, and from whichever topic.

        What is no text has no template: a reading with other numbers is another question.
        """
        if self._mode == "template" and isinstance(question.value, str):
            asked = _encode((question.labels, template_of(question.value)))
        else:
            asked = _encode((question.labels, question.topic, question.value))
        return blake2b(asked, digest_size=16).digest()

    def get(self, key: bytes, now_s: float) -> Verdict | None:
        """The answer, at no cost; None when there is none, or it is too old."""
        found = self._answers.get(key)
        if found is None:
            return None
        if now_s - found[0] > self._max_age_s:
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return _for_nothing(found[1])

    def put(self, key: bytes, verdict: Verdict, now_s: float) -> None:
        """Remember what was answered now."""
        self._answers[key] = (now_s, verdict)
        self._answers.move_to_end(key)
        if len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)


async def ask_once(recall: Recall, questions: Sequence[Question], ask: Ask, now_s: float) -> tuple[Answers, int]:
    """One answer a question, of which `ask` sees those that are not remembered, each once; and how many it did not see.

    Raises what `ask` raises; nothing is forgotten or remembered then.
    """
    keys = [recall.key(question) for question in questions]
    found: dict[bytes, Verdict | Refusal] = {}
    open_: dict[bytes, Question] = {}
    for key, question in zip(keys, questions, strict=True):
        known = recall.get(key, now_s)
        if known is not None:
            found[key] = known
        else:
            open_.setdefault(key, question)
    answers = dict(zip(open_, await ask(list(open_.values())) if open_ else (), strict=True))
    for key, answer in answers.items():
        if isinstance(answer, Verdict) and answer.label:
            recall.put(key, answer, now_s)
    return [_handed(key, answers, found) for key in keys], len(questions) - len(open_)


def _handed(
    key: bytes, answers: dict[bytes, Verdict | Refusal], found: dict[bytes, Verdict | Refusal]
) -> Verdict | Refusal:
    """The answer of this call to the one that was asked, a free one to those like it."""
    if key in found:
        return found[key]
    answer = answers[key]
    found[key] = _for_nothing(answer) if isinstance(answer, Verdict) else answer
    return answer


def _for_nothing(verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, latency_ms=0.0, tokens_in=0, tokens_out=0, n_bytes=0, cost=0.0)
