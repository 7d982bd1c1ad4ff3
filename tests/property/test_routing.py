from hypothesis import given
from hypothesis import strategies as st

from gatewayd.routing import Router, matches, validate_filter

LEVEL = st.sampled_from(["", "a", "b", "$SYS", "ü"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=6).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVEL | st.just("+"), max_size=5), st.booleans())
    .map(lambda parts: "/".join(parts[0] + ["#"] * parts[1]))
    .filter(bool)
)


@given(st.dictionaries(FILTERS, st.lists(st.integers(0, 9), min_size=1), max_size=12), st.lists(TOPICS, max_size=8))
def test_the_router_agrees_with_matching_filter_by_filter(targets: dict[str, list[int]], topics: list[str]) -> None:
    router = Router(targets, max_cached_topics=3)
    named = list(dict.fromkeys(target for wanting in targets.values() for target in wanting))

    for topic in topics * 2:
        wanted = {target for name, wanting in targets.items() if matches(name, topic) for target in wanting}
        assert router.match(topic) == tuple(target for target in named if target in wanted)


@given(st.text())
def test_any_text_is_either_a_filter_or_has_a_problem_in_words(text: str) -> None:
    problem = validate_filter(text)

    assert problem is None or problem.strip()
    if problem is None:
        Router({text: [1]}).match("a/b")


@given(TOPICS)
def test_every_topic_matches_itself_as_a_filter(topic: str) -> None:
    if validate_filter(topic) is None:
        assert matches(topic, topic)
