from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.routing import matches, plain_filter
from gatewayd.subscribing import covers, overlap, plan_subscriptions, share_of

NAMES = ["", "a", "$x"]
# "z" is in no filter, and topics are one level longer than filters: what no filter names must show a difference too.
TOPICS = [topic for n in range(1, 6) for levels in product([*NAMES, "z"], repeat=n) if (topic := "/".join(levels))]
FILTERS = (
    st.tuples(st.lists(st.sampled_from([*NAMES, "+", "+"]), max_size=3), st.booleans())
    .map(lambda parts: "/".join(parts[0] + ["#"] * parts[1]))
    .filter(bool)
)
SHARED = st.tuples(st.sampled_from(["", "", "$share/g/", "$share/h/"]), FILTERS).map("".join)


def topics_of(name: str) -> set[str]:
    return {topic for topic in TOPICS if matches(name, topic)}


@given(FILTERS, FILTERS)
def test_a_filter_covers_another_exactly_when_it_matches_all_of_its_topics(general: str, special: str) -> None:
    assert covers(general, special) is (topics_of(special) <= topics_of(general))


@given(FILTERS, FILTERS)
def test_filters_overlap_exactly_when_a_topic_matches_both(a: str, b: str) -> None:
    assert overlap(a, b) is bool(topics_of(a) & topics_of(b))


@given(st.lists(st.tuples(SHARED, st.integers(0, 1)), max_size=6))
def test_a_plan_receives_what_was_asked_for_at_no_lower_qos_and_nothing_else(asked: list[tuple[str, int]]) -> None:
    plan = plan_subscriptions(asked)

    for group in {share_of(name) for name, _ in asked}:
        for qos in (0, 1):
            wanted = [topics_of(name) for name, least in asked if share_of(name) == group and least >= qos]
            planned = [topics_of(name) for name, most in plan.subscriptions if share_of(name) == group and most >= qos]
            assert set().union(*wanted) <= set().union(*planned)
    assert {name for name, _ in plan.subscriptions} <= {name for name, _ in asked}


@given(st.lists(st.tuples(SHARED, st.integers(0, 1)), max_size=6))
def test_without_a_named_overlap_no_topic_has_two_subscriptions_of_one_stream(asked: list[tuple[str, int]]) -> None:
    plan = plan_subscriptions(asked)

    streams = {share_of(name) for name, _ in plan.subscriptions}
    most = max(
        (
            sum(matches(name, topic) for name, _ in plan.subscriptions if share_of(name) == stream)
            for stream in streams
            for topic in TOPICS
        ),
        default=0,
    )
    assert plan.has_overlap is (most > 1)
    assert all(plain_filter(a) != plain_filter(b) for a, b in plan.overlaps)
