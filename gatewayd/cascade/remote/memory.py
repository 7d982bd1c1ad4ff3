"""What a tier's client keeps between calls: answers not yet handed over, and questions that the far side chokes on.

Both are bounded, oldest out first, and forgotten at a restart: what is lost is asked again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from gatewayd.cascade.verdict import Question, Refusal, Verdict

_MAX_REMEMBERED = 4096
_MAX_SUSPECTS = 1024
_CHOKED = 3  # times that a question failed alone, while others were answered in between

_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode


def digest_of(question: Question) -> bytes:
    """Stands for what is asked: the message, as it is shown to the tier."""
    asked = _encode((question.key, question.topic, question.labels, question.value))
    return hashlib.blake2b(asked, digest_size=16).digest()


class Remembered:
    """Answers that came, while others of the same call did not."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, Verdict | Refusal] = OrderedDict()

    def take(self, digest: bytes) -> Verdict | Refusal | None:
        """The answer, which is forgotten with that; None when there is none."""
        return self._answers.pop(digest, None)

    def put(self, answers: Iterable[tuple[bytes, Verdict | Refusal | None]]) -> None:
        """Keep those that are answers."""
        for digest, answer in answers:
            if answer is not None:
                self._answers[digest] = answer
        while len(self._answers) > _MAX_REMEMBERED:
            self._answers.popitem(last=False)


class Suspects:
    """Questions that failed alone. A far side that fails whatever it is asked is away, and no question's fault: so a
    failure counts again only after another question was answered."""

    def __init__(self) -> None:
        self._failed: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # how often, and `_n_worked` then
        self._n_worked = 0

    def n_failed(self, digest: bytes) -> int:
        """How often it counted."""
        return self._failed.get(digest, (0, 0))[0]

    def refusal(self, digest: bytes) -> Refusal | None:
        """Why it is not asked again, or None."""
        if self.n_failed(digest) < _CHOKED:
            return None
        return Refusal(reason="choked", detail=f"the far side failed {_CHOKED} times at this question, and at no other")

    def failed(self, digest: bytes) -> None:
        """It was asked alone, and the far side failed."""
        n, n_worked = self._failed.pop(digest, (0, -1))
        self._failed[digest] = (n + 1 if n_worked < self._n_worked else n, self._n_worked)
        if len(self._failed) > _MAX_SUSPECTS:
            self._failed.popitem(last=False)

    def worked(self, digests: Iterable[bytes]) -> None:
        """These were answered."""
        self._n_worked += 1
        for digest in digests:
            self._failed.pop(digest, None)
