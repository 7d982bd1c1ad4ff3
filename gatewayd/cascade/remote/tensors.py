"""From a question's value to a tensor of a KServe v2 request, and from its answer to numbers. Pure.

A value is a number, a text, a list of them, rows of equal length, or a mapping of any of these, which counts as the
list of its values in their order. Source: Open Inference Protocol, "Tensor Data" and "Tensor Data Types".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
INTEGERS = frozenset({f"{kind}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)})
_MAX_RANK = 8
VARIABLE = -1  # a dimension of any size


class Unfit(ValueError):  # noqa: N818 - it is the value that does not fit, no error of the program
    """A value that is no tensor, or none that the model takes. Says in words why, and quotes nothing of it."""


class Metadata(msgspec.Struct, frozen=True):
    """Of one tensor of a model."""

    name: str
    datatype: str
    shape: Sequence[int]


class Tensor(msgspec.Struct, frozen=True):
    """One item, without the dimension of the batch."""

    shape: tuple[int, ...]
    data: list[Any]  # flat, row-major


def tensor_of(value: Any, datatype: str) -> Tensor:
    """Raises Unfit."""
    if datatype == "BYTES" and isinstance(value, Mapping):
        value = msgspec.json.encode(value).decode()
    data: list[Any] = []
    shape = _flatten(value, datatype, data, _MAX_RANK)
    return Tensor(shape, data)


def _flatten(value: Any, datatype: str, data: list[Any], rank: int) -> tuple[int, ...]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        data.append(_element(value, datatype))
        return ()
    if not rank:
        raise Unfit(f"more than {_MAX_RANK} dimensions")
    if not value:
        raise Unfit("an empty list")
    shapes = {_flatten(item, datatype, data, rank - 1) for item in value}
    if len(shapes) > 1:
        raise Unfit("rows of different lengths")
    return (len(value), *shapes.pop())


def _element(value: Any, datatype: str) -> Any:
    if datatype == "BYTES":
        if isinstance(value, str):
            return value
        raise Unfit(f"{_is_a(value)} where the model takes text")
    if isinstance(value, bool):
        return value if datatype == "BOOL" else int(value)
    if not isinstance(value, int | float) or datatype not in FLOATS | INTEGERS | {"BOOL"}:
        raise Unfit(f"{_is_a(value)} where the model takes {datatype}")
    if not math.isfinite(value):
        raise Unfit("a number that is not finite")
    if datatype in FLOATS:
        return value
    if value != int(value):
        raise Unfit(f"a fraction where the model takes {datatype}")
    return bool(value) if datatype == "BOOL" else int(value)


def _is_a(value: Any) -> str:
    return {str: "text", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def fitted(tensor: Tensor, model: Metadata) -> tuple[Tensor, bool]:
    """The item in the shape that the model takes, and whether several make a batch.

    The first dimension of a model is the batch where it is variable; missing ones behind it are 1. Raises Unfit.
    """
    shape, rank = tensor.shape, len(model.shape)
    is_whole = len(shape) == rank > 0 and model.shape[0] == VARIABLE
    if is_whole and shape[0] == 1:
        shape = shape[1:]  # it has the batch's dimension itself
    elif is_whole:
        raise Unfit(f"the shape {list(shape)}, a batch of its own, where the model takes {list(model.shape)}")
    if len(shape) < rank and model.shape[0] in (VARIABLE, 1):
        shape = (*[1] * (rank - 1 - len(shape)), *shape)
        wanted, is_batch = model.shape[1:], model.shape[0] == VARIABLE
    else:
        wanted, is_batch = model.shape, False
    if len(shape) != len(wanted) or any(want not in (VARIABLE, n) for want, n in zip(wanted, shape, strict=True)):
        raise Unfit(f"the shape {list(tensor.shape)} where the model takes {list(model.shape)}")
    whole = shape if is_batch or len(wanted) == rank else (1, *shape)
    return Tensor(tuple(whole), tensor.data), is_batch


def flat(data: Any) -> list[Any]:
    """Tensor data, nested or not, as one list."""
    level = data if isinstance(data, list) else [data]
    for _ in range(_MAX_RANK):
        if not any(isinstance(item, list) for item in level):
            break
        level = [part for item in level for part in (item if isinstance(item, list) else [item])]
    return level


def softmax(row: Sequence[float]) -> list[float]:
    """Probabilities of logits."""
    largest = max(row)
    powers = [math.exp(logit - largest) for logit in row]
    total = sum(powers)
    return [power / total for power in powers]


def sigmoid(logit: float) -> float:
    """The probability of one logit against none."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
