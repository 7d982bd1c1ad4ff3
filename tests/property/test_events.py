"""Any result survives the way over the wire."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.events import TYPE_PREFIX, batch_json, event_source, event_time, parse_batch
from gatewayd.ports import StoredResult

texts = st.text(st.characters(exclude_categories=["Cs"]))
some_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
stored_results = st.builds(
    StoredResult,
    row=st.integers(1, 2**62),
    route=some_text,
    key=some_text,
    kind=some_text,
    subject=texts,
    time=st.floats(),
    data=st.dictionaries(texts, json_values, max_size=4).map(msgspec.json.encode),
    traceparent=texts,
)


@given(st.lists(stored_results, max_size=5))
def test_a_batch_is_read_as_it_was_written(batch: list[StoredResult]) -> None:
    events = parse_batch(batch_json(batch, "gw"))

    assert len(events) == len(batch)
    for event, stored in zip(events, batch, strict=True):
        assert event.id == stored.key
        assert event.source == event_source("gw", stored.route)
        assert event.type == TYPE_PREFIX + stored.kind
        assert event.subject == stored.subject
        assert event.traceparent == stored.traceparent
        assert bytes(event.data) == stored.data


@given(some_text, some_text)
def test_two_routes_never_share_a_source(one: str, other: str) -> None:
    assert (event_source("gw", one) == event_source("gw", other)) == (one == other)


@given(st.floats())
def test_any_time_makes_valid_json(time: float) -> None:
    text = event_time(time)

    assert json.loads(json.dumps(text)) == text
    assert text == "" or (text.endswith("Z") and "T" in text)
