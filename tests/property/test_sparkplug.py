"""Sparkplug B: whatever the bytes are, and whatever the metrics are."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.errors import RejectedError
from gatewayd.payloads.decoder import REASONS
from gatewayd.sparkplug.metrics import sparkplug_value
from tests.sim.door import Node
from tests.sim.edge_node import BOOLEAN, DOUBLE, INT8, INT32, INT64, STRING, UINT64, metric, payload


def value_of(*metrics: bytes, seq: int = 0) -> dict[str, Any]:
    return sparkplug_value(payload(metrics, seq=seq))


@given(st.binary(max_size=400))
def test_whatever_the_bytes_are_it_is_a_value_or_refused(data: bytes) -> None:
    reason, value = "", None
    try:
        value = sparkplug_value(data)
    except RejectedError as error:
        reason = error.reason
    assert reason in REASONS or msgspec.json.decode(msgspec.json.encode(value)) == value


KINDS = st.one_of(
    st.tuples(st.integers(-(2**31), 2**31 - 1), st.just(INT32)),
    st.tuples(st.integers(-(2**63), 2**63 - 1), st.just(INT64)),
    st.tuples(st.integers(0, 2**64 - 1), st.just(UINT64)),
    st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.just(DOUBLE)),
    st.tuples(st.booleans(), st.just(BOOLEAN)),
    st.tuples(st.text(st.characters(blacklist_categories=["Cs"])), st.just(STRING)),
    st.tuples(st.none(), st.just(INT8)),
)
NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


@given(st.dictionaries(NAMES, KINDS), st.integers(0, 255))
def test_any_payload_comes_back_as_it_was(metrics: dict[str, tuple[object, int]], seq: int) -> None:
    found = value_of(*(metric(value, kind, name=name) for name, (value, kind) in metrics.items()), seq=seq)

    assert found["metrics"] == {name: value for name, (value, _) in metrics.items()}
    assert found["seq"] == seq


@given(st.dictionaries(NAMES, KINDS, min_size=1))
def test_an_alias_means_what_the_birth_says(metrics: dict[str, tuple[object, int]]) -> None:
    bus = Node()
    aliases = {name: 100 + index for index, name in enumerate(metrics)}
    bus.hear("NBIRTH", [metric(None, kind, name=name, alias=aliases[name]) for name, (_, kind) in metrics.items()])
    bus.hear("NDATA", [metric(value, kind, alias=aliases[n], with_type=False) for n, (value, kind) in metrics.items()])

    assert bus.values[-1]["metrics"] == {name: value for name, (value, _) in metrics.items()}


@given(st.lists(st.tuples(st.sampled_from(["NBIRTH", "NDATA", "NDEATH", "NCMD", "XX"]), st.binary(max_size=60))))
def test_whatever_comes_to_the_door_it_lets_through_what_holds_data(messages: list[tuple[str, bytes]]) -> None:
    bus = Node()
    for kind, data in messages:
        bus.hear_bytes(kind, data)

    assert bus.n_admitted == sum(kind in ("NBIRTH", "NDATA") for kind, _ in messages)
