"""The http tier: a service of the user's own. Questions go out as a CloudEvents batch, verdicts come back as JSON.

Request: `POST`, `application/cloudevents-batch+json`; each event has the message's key as `id`, its topic as `subject`,
type `dev.gatewayd.question`, and `data` = {value, labels, first: {label, scores, confidence, tier}}.
Answer: a list of {id, label, scores?, confidence?, model?, model_version?, tokens_in?, tokens_out?, cost?}, in any
order, or {id, refused: reason} for what will never be answered. An id that is missing is asked again.
docs/guides/remote-tiers.md has a server that answers it.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from gatewayd.cascade.remote.dialect import Reply, Request, Said, decoded
from gatewayd.cascade.verdict import Question, Refusal
from gatewayd.events import BATCH_CONTENT_TYPE, DATA_CONTENT_TYPE, SPEC_VERSION, event_time
from gatewayd.http_link import Answer

QUESTION_TYPE = "dev.gatewayd.question"
_MAX_REASON_CHARS = 40


class _First(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    scores: Mapping[str, float]
    confidence: float
    tier: str


class _Data(msgspec.Struct, frozen=True, kw_only=True):
    value: Any
    labels: tuple[str, ...]
    first: _First


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    specversion: str
    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    datacontenttype: str = ""
    data: _Data


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the service may say of one question; fields we do not know are its own business."""

    id: str
    label: str = ""
    scores: Mapping[str, float] = {}
    confidence: float | None = None
    model: str = ""
    model_version: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    refused: str = ""


class HttpDialect:
    """Implements remote.dialect.Dialect."""

    n_at_once = 1
    wants = None

    def __init__(self, tier: str, gateway: str, max_questions: int) -> None:
        self.max_questions = max_questions
        self._source = f"/gateways/{quote(gateway, safe='')}/tiers/{quote(tier, safe='')}"

    def check(self, _question: Question) -> Refusal | None:
        """Every question can be put."""
        return None

    def group(self, _question: Question) -> Hashable:
        """See Dialect: any may share a request."""
        return ""

    def compose(self, questions: Sequence[Question]) -> Request:
        """See Dialect."""
        body = msgspec.json.encode([self._event(question) for question in questions])
        return Request(body=body, content_type=BATCH_CONTENT_TYPE)

    def read(self, questions: Sequence[Question], answer: Answer) -> Sequence[Reply]:
        """See Dialect."""
        told: dict[str, deque[_Told]] = defaultdict(deque)  # the same message may be asked about twice
        for each in decoded(answer.body, list[_Told]):
            told[each.id].append(each)
        return [_reply(told[question.key].popleft()) if told[question.key] else None for question in questions]

    def yields(self, _answer: Answer) -> Literal[False]:
        """There is nothing to leave out."""
        return False

    def learn(self, _answer: Answer) -> None:
        """There is nothing to learn."""

    def forget(self) -> None:
        """There is nothing to forget."""

    def _event(self, question: Question) -> _Event:
        first = question.first
        return _Event(
            specversion=SPEC_VERSION,
            id=question.key,
            source=self._source,
            type=QUESTION_TYPE,
            subject=question.topic,
            time=event_time(question.time),
            datacontenttype=DATA_CONTENT_TYPE,
            data=_Data(
                value=question.value,
                labels=question.labels,
                first=_First(label=first.label, scores=first.scores, confidence=first.confidence, tier=first.tier),
            ),
        )


def _reply(told: _Told) -> Reply:
    if told.refused:
        return Refusal(reason="refused", detail=told.refused[:_MAX_REASON_CHARS])
    if told.tokens_in < 0 or told.tokens_out < 0 or (told.cost is not None and not 0.0 <= told.cost < 1e6):
        return Refusal(reason="bad_usage", detail="tokens or cost are negative or beyond reason")
    return Said(
        label=told.label,
        scores=told.scores,
        confidence=told.confidence,
        model=told.model,
        model_version=told.model_version,
        tokens_in=told.tokens_in,
        tokens_out=told.tokens_out,
        cost=told.cost,
    )
