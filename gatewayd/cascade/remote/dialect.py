"""What differs between kinds of far sides: how questions are put into a request, and answers read out of a response.

A dialect only composes and reads. Sending, splitting, budgets, retries and refusals are the client's.
"""

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from yarl import URL

from gatewayd.cascade.verdict import Question, Refusal
from gatewayd.http_link import Answer


class GarbledError(ValueError):
    """A 2xx whose body is no answer of such a far side: a proxy's page, another service, a bug. No question's fault."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One POST."""

    body: bytes
    content_type: str = "application/json"
    url: URL | None = None  # None: the tier's own
    n_tokens_in: int = 0  # estimated
    max_tokens_out: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the far side said about one question, not yet checked."""

    label: str
    scores: Mapping[str, float] = {}
    confidence: float | None = None  # None: the label's score, and 1 where there are no scores
    model: str = ""
    model_version: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None  # None: by the prices in the config


Reply = Said | Refusal | None  # None: this question was left out


class Dialect(Protocol):
    """One kind of far side."""

    max_questions: int  # in one request
    n_at_once: int  # requests under way together

    def check(self, question: Question) -> Refusal | None:
        """Why this question cannot be put, or None. Called after `learn`."""

    def group(self, question: Question) -> Hashable:
        """Questions of the same group may share a request; one of the group None has its own."""

    def compose(self, questions: Sequence[Question]) -> Request:
        """The request that puts them. They are of one group."""

    def read(self, questions: Sequence[Question], answer: Answer) -> Sequence[Reply]:
        """What a 2xx says about each question, in their order. Raises GarbledError."""

    def yields(self, answer: Answer) -> bool:
        """Whether a refusal was about something we can do without: it is left out from now on, ask again."""

    @property
    def wants(self) -> URL | None:
        """What has to be read before anything can be asked; None: nothing, or it is known."""

    def learn(self, answer: Answer) -> None:
        """What `wants` led to. Raises GarbledError."""

    def forget(self) -> None:
        """The far side went away: what was learned may be wrong when it is back."""


def usable(said: Said, question: Question) -> Said | Refusal:
    """The answer with its confidence filled in, or what is wrong with it."""
    if not said.label:
        return Refusal(reason="no_answer", detail="the answer has no label")
    if question.labels and said.label not in question.labels:
        return Refusal(reason="unknown_label", detail=f"the answer is none of the {len(question.labels)} labels")
    if not all(math.isfinite(score) for score in said.scores.values()):
        return Refusal(reason="bad_scores", detail="a score is no finite number")
    confidence = said.confidence
    if confidence is None:
        confidence = said.scores.get(said.label, 1.0)
    if not 0.0 <= confidence <= 1.0:  # also what is not a number
        return Refusal(reason="bad_scores", detail="the confidence is not between 0 and 1")
    return msgspec.structs.replace(said, confidence=confidence)


def decoded(body: bytes, into: Any) -> Any:
    """A body as the struct it must be. Raises GarbledError in words that quote nothing of it."""
    try:
        try:
            return msgspec.json.decode(body, type=into)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # many servers write NaN, which is no JSON, but says of which question it is
            return msgspec.convert(json.loads(body), into)
    except msgspec.ValidationError as exc:
        raise GarbledError(f"the answer has not the form it must have: {exc}") from None
    except (ValueError, RecursionError):
        raise GarbledError("the answer is no JSON: does something else answer at this address?") from None
