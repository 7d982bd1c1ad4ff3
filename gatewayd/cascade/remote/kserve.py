"""The kserve tier: a server of the Open Inference Protocol (KServe v2) over HTTP: Triton, OpenVINO, MLServer.

What the model takes is read once from its metadata; questions whose inputs have the same shape share a request, where
the model has a dimension for it. The output's numbers are the scores, in the order of `labels`.
Source: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from yarl import URL

from gatewayd.cascade.remote.dialect import GarbledError, Reply, Request, Said, decoded
from gatewayd.cascade.remote.tensors import Metadata, Tensor, Unfit, fitted, flat, sigmoid, softmax, tensor_of
from gatewayd.cascade.verdict import Question, Refusal
from gatewayd.config.tiers import KServeTier
from gatewayd.errors import RejectedError
from gatewayd.http_link import Answer
from gatewayd.payloads.paths import compile_path, follow

_MAX_NAME_CHARS = 200


class _Model(msgspec.Struct, frozen=True):
    inputs: Sequence[Metadata]
    outputs: Sequence[Metadata] = ()


class _Output(msgspec.Struct, frozen=True):
    name: str
    data: Any
    shape: Sequence[int] = ()
    datatype: str = ""


class _Response(msgspec.Struct, frozen=True):
    outputs: Sequence[_Output]
    model_name: str = ""
    model_version: str | None = None


class KServeDialect:
    """Implements remote.dialect.Dialect."""

    n_at_once = 1

    def __init__(self, tier: str, config: KServeTier) -> None:
        self.max_questions = config.max_batch
        self._tier = tier
        self._config = config
        self._path = compile_path(config.field) if config.field else None
        base = URL(config.url)
        version = ("versions", config.version) if config.version else ()
        self._model_url = base.joinpath("v2", "models", config.model, *version).with_query(base.query)
        self._infer_url = base.joinpath("v2", "models", config.model, *version, "infer").with_query(base.query)
        self._inputs: Sequence[Metadata] = ()

    @property
    def wants(self) -> URL | None:
        """See Dialect: the model's metadata."""
        return None if self._inputs else self._model_url

    def learn(self, answer: Answer) -> None:
        """See Dialect."""
        model: _Model = decoded(answer.body, _Model)
        config = self._config
        inputs = [each for each in model.inputs if config.input in ("", each.name)]
        outputs = [each for each in model.outputs if config.output in ("", each.name)]
        if not inputs:
            raise GarbledError(f"its model has no input `{config.input}`, it has {_names(model.inputs)}")
        if model.outputs and len(outputs) != 1:
            raise GarbledError(f"`output` must be one of {_names(model.outputs)}")
        self._inputs = inputs

    def check(self, question: Question) -> Refusal | None:
        """See Dialect."""
        try:
            self._tensors(question)
        except Unfit as exc:
            return Refusal(reason="bad_input", detail=str(exc))
        except RejectedError as exc:
            return Refusal(reason=exc.reason, detail=str(exc))
        return None

    def group(self, question: Question) -> Hashable:
        """See Dialect: by the shapes of its inputs."""
        fits = self._tensors(question)
        return tuple(tensor.shape for tensor, _ in fits) if all(is_batch for _, is_batch in fits) else None

    def compose(self, questions: Sequence[Question]) -> Request:
        """See Dialect."""
        rows = [self._tensors(question) for question in questions]
        inputs = [
            _input(model, [row[index] for row in rows], len(questions)) for index, model in enumerate(self._inputs)
        ]
        body: dict[str, Any] = {"inputs": inputs}
        if self._config.output:
            body["outputs"] = [{"name": self._config.output}]
        return Request(body=msgspec.json.encode(body), url=self._infer_url)

    def read(self, questions: Sequence[Question], answer: Answer) -> Sequence[Reply]:
        """See Dialect."""
        response: _Response = decoded(answer.body, _Response)
        wanted = self._config.output
        outputs = [each for each in response.outputs if wanted in ("", each.name)]
        if len(outputs) != 1:
            raise GarbledError(f"the answer has {len(outputs)} outputs of which one is wanted: set `output`")
        numbers = flat(outputs[0].data)
        n, labels = len(questions), self._config.labels
        width = len(numbers) // n
        if len(numbers) != n * width or (width != len(labels) and (width, len(labels)) != (1, 2)):
            raise GarbledError(f"{len(numbers)} scores for {n} questions and {len(labels)} labels: check `labels`")
        return [self._reply(numbers[start : start + width], response) for start in range(0, len(numbers), width)]

    def yields(self, _answer: Answer) -> Literal[False]:
        """See Dialect: there is nothing to leave out."""
        return False

    def forget(self) -> None:
        """See Dialect: the server may have another version of the model when it is back."""
        self._inputs = ()

    def _reply(self, row: Sequence[Any], response: _Response) -> Reply:
        if not all(isinstance(score, int | float) and math.isfinite(score) for score in row):
            return Refusal(reason="bad_scores", detail="a score is no finite number")
        is_logits = self._config.scores == "logits"
        if len(row) == 1:
            last = sigmoid(row[0]) if is_logits else float(row[0])
            row = [1.0 - last, last]
        elif is_logits:
            row = softmax(row)
        if not all(0.0 <= score <= 1.0 for score in row):
            return Refusal(reason="bad_scores", detail='scores are no probabilities: set scores = "logits"?')
        scores = dict(zip(self._config.labels, map(float, row), strict=True))
        label = max(scores, key=scores.__getitem__)
        return Said(
            label=label,
            scores=scores,
            confidence=scores[label],
            model=(response.model_name or self._config.model)[:_MAX_NAME_CHARS],
            model_version=(response.model_version or "")[:_MAX_NAME_CHARS],
        )

    def _tensors(self, question: Question) -> list[tuple[Tensor, bool]]:
        """One for each input. Raises Unfit and RejectedError."""
        value = question.value
        if self._path is not None:
            value = follow(value, self._path, topic=question.topic, time=question.time)
        if len(self._inputs) == 1:
            return [fitted(tensor_of(value, self._inputs[0].datatype), self._inputs[0])]
        return [fitted(tensor_of(_named(value, model.name), model.datatype), model) for model in self._inputs]


def _input(model: Metadata, items: Sequence[tuple[Tensor, bool]], n: int) -> Mapping[str, Any]:
    tensor, is_batch = items[0]
    shape = [n, *tensor.shape] if is_batch else list(tensor.shape)
    data = [element for item, _ in items for element in item.data]
    return {"name": model.name, "shape": shape, "datatype": model.datatype, "data": data}


def _named(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise Unfit(f"there is no `{name}`, which is an input of the model")
    return value[name]


def _names(tensors: Sequence[Metadata]) -> str:
    return ", ".join(f"`{each.name}`" for each in tensors) or "none"
