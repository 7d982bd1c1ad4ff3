"""Many results as one: what an aggregate says, and what a chunk of rows becomes."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.spool.aggregates import (
    KIND,
    MAX_FIELDS,
    MAX_LABELS,
    Aggregate,
    Field,
    Row,
    aggregate,
    merge,
    read_aggregate,
    thin,
)


def row(n: int, data: object = None, *, kind: str = "class", subject: str = "s/1") -> Row:
    content = {"label": "ok", "score": n / 100, "latency_ms": 1.5, "model": "m"} if data is None else data
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Row(n, f"key-{n:06}", kind, subject, 1000.0 + n, body)


def thinned(rows: Sequence[Row]) -> list[Row]:
    thinning = thin(rows)
    return [] if thinning is None else thinning.made


def content(made: Row) -> Aggregate:
    found = read_aggregate(made.data)
    assert found is not None
    return found


def test_a_chunk_of_one_kind_and_subject_becomes_one_row_with_the_last_ones_id() -> None:
    (made,) = thinned([row(n) for n in range(1, 101)])

    assert (made.id, made.kind, made.subject, made.time) == (100, KIND, "s/1", 1100.0)
    assert json.loads(made.data) == {
        "of": "class",
        "count": 100,
        "window_start": 1001.0,
        "window_end": 1100.0,
        "labels": {"ok": 100},
        "fields": {
            "latency_ms": {"count": 100, "min": 1.5, "max": 1.5, "mean": 1.5},
            "score": {"count": 100, "min": 0.01, "max": 1.0, "mean": 0.505},
        },
    }


def test_subjects_and_kinds_stand_apart_while_that_halves_the_chunk() -> None:
    rows = [row(n, kind=f"k{n % 2}", subject=f"s{n % 3}") for n in range(120)]

    made = thinned(rows)

    assert {(content(one).of, one.subject) for one in made} == {(f"k{k}", f"s{s}") for k in (0, 1) for s in (0, 1, 2)}
    assert [one.id for one in made] == [114, 115, 116, 117, 118, 119]


def test_many_subjects_are_grouped_by_kind_alone() -> None:
    made = thinned([row(n, subject=f"s/{n}") for n in range(100)])

    assert [(one.subject, content(one).count) for one in made] == [("", 100)]


def test_what_would_not_be_halved_stays_as_it_is() -> None:
    assert thin([row(n, kind=f"kind-{n}") for n in range(100)]) is None
    assert thin([row(1)]) is None
    assert thin([]) is None


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"7", b"null", b"\xff\xfe", b"{", b'{"a":1e999}', b"[" * 5000], ids=lambda data: str(data[:9])
)
def test_data_that_is_no_object_is_left_alone(data: bytes) -> None:
    rows = [row(n, data) for n in range(10)] + [row(n) for n in range(10, 60)]

    thinning = thin(rows)

    assert thin(rows[:10]) is None
    assert thinning is not None
    assert thinning.gone == list(range(10, 60))


def test_loss_reports_are_left_alone() -> None:
    assert thin([row(n, kind="loss") for n in range(100)]) is None


def test_a_handlers_own_kind_aggregate_is_left_alone() -> None:
    assert thin([row(n, kind=KIND) for n in range(100)]) is None
    odd = {
        "of": "k",
        "count": 1,
        "window_start": 0,
        "window_end": 0,
        "labels": {},
        "fields": {"a": {"count": 1, "min": 2}},
    }
    assert thin([row(n, odd, kind=KIND) for n in range(100)]) is None
    odd = {"of": "k", "count": 0, "window_start": 0, "window_end": 0, "labels": {}, "fields": {}}
    assert thin([row(n, odd, kind=KIND) for n in range(100)]) is None


def test_aggregates_are_merged_a_few_at_a_time() -> None:
    first = [thinned([row(256 * chunk + n) for n in range(256)])[0] for chunk in range(16)]

    second = thinned(first)

    assert [(one.id, content(one).count) for one in second] == [(256 * 4 * n - 1, 1024) for n in range(1, 5)]
    assert content(second[0]).window_start == 1000.0
    assert content(second[-1]).window_end == 1000.0 + 16 * 256 - 1


def test_the_key_is_a_function_of_the_members_keys() -> None:
    rows = [row(n) for n in range(20)]

    assert thinned(rows)[0].key == thinned(rows)[0].key
    assert thinned(rows)[0].key != thinned(rows[1:])[0].key


def test_fields_of_objects_within_are_taken_one_level_deep() -> None:
    rows = [row(n, {"scores": {"a": n, "b": 1 - n, "deep": {"c": 1}}, "flag": True, "list": [1]}) for n in range(20)]

    assert set(content(thinned(rows)[0]).fields) == {"scores.a", "scores.b"}


def test_names_beyond_the_bounds_are_counted_under_other() -> None:
    many = {f"f{n:03}": n for n in range(100)}
    found = aggregate("k", [1.0, 2.0], [many, {**many, "label": "a", "f099": 5, "other": 1, "n" * 100: 1}])

    assert len(found.fields) == MAX_FIELDS
    assert found.fields["other"] == Field(count=2 * 100 + 2 - 2 * (MAX_FIELDS - 1))
    labels = aggregate("k", [1.0] * 100, [{"label": f"l{n % 50}"} for n in range(100)]).labels
    assert len(labels) == MAX_LABELS
    assert sum(labels.values()) == 100


def test_numbers_that_are_no_floats_do_not_break_it() -> None:
    found = aggregate("k", [1.0, 2.0], [{"a": 10**400, "b": 1.7e308}, {"b": 1.7e308}])

    assert found.fields == {"b": Field(count=2, min=1.7e308, max=1.7e308, mean=1.7e308), "other": Field(count=1)}


def test_the_largest_floats_have_a_mean() -> None:
    largest = 1.7976931348623157e308
    whole = aggregate("k", [0.0] * 3, [{"x": largest}] * 3)

    assert whole.fields["x"].mean == largest
    assert merge([whole, whole, whole]).fields["x"].mean == largest


_numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)
_contents = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["a", "b", "other"]),
        "x": _numbers,
        "y": st.floats(-1, 1),
        "scores": st.dictionaries(st.sampled_from("ab"), st.floats(0, 1)),
    },
)


@given(st.lists(st.tuples(st.floats(0, 1e9), _contents), min_size=2, max_size=40), st.data())
def test_merging_parts_says_what_the_whole_says(
    found: list[tuple[float, dict[str, object]]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(found) - 1))
    times, contents = [time for time, _ in found], [content for _, content in found]

    whole = aggregate("k", times, contents)
    parts = merge([aggregate("k", times[:cut], contents[:cut]), aggregate("k", times[cut:], contents[cut:])])

    assert (parts.count, parts.window_start, parts.window_end) == (whole.count, whole.window_start, whole.window_end)
    assert parts.labels == whole.labels
    assert parts.fields.keys() == whole.fields.keys()
    for name, field in whole.fields.items():
        part = parts.fields[name]
        assert (part.count, part.min, part.max) == (field.count, field.min, field.max)
        assert field.min <= part.mean <= field.max
        assert None not in {field.min, field.max, field.mean, part.mean}
        assert part.mean == pytest.approx(field.mean, rel=1e-9, abs=1e-12 * max(abs(field.min), abs(field.max)))


@given(
    st.lists(
        st.tuples(st.sampled_from(["k", "l", "loss"]), st.sampled_from(["s", "t"]), _contents | st.binary(max_size=5)),
        max_size=80,
    )
)
def test_thinning_counts_every_result_once_and_halves_what_it_touches(found: list[tuple[str, str, object]]) -> None:
    rows = [row(n, data, kind=kind, subject=subject) for n, (kind, subject, data) in enumerate(found)]

    thinning = thin(rows)

    if thinning is not None:
        made, gone = thinning
        assert sum(content(one).count for one in made) == len(gone)
        assert {one.id for one in made} <= set(gone)
        assert 2 * len(made) <= len(gone)
        assert not {rows[n].kind for n in gone} & {"loss"}
