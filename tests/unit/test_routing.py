import pytest

from gatewayd.routing import Router, matches, subscriptions, validate_filter


@pytest.mark.parametrize(
    "name", ["a", "/", "+", "#", "a/+/b", "+/+", "/+", "a/#", "$SYS/#", "$share/g/a/#", "a b/ü", "x" * 65535]
)
def test_a_filter_by_the_rules_of_mqtt_has_no_problem(name: str) -> None:
    assert validate_filter(name) is None


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("a#", "alone"),
        ("a/#/b", "last"),
        ("a+/b", "alone"),
        ("a/+b", "alone"),
        ("##", "alone"),
        ("ü" * 32768, "65536"),
        ("\ud800", "UTF-8"),
        ("$share", "group"),
        ("$share/", "group"),
        ("$share//a", "group"),
        ("$share/+/a", "group"),
        ("$share/g", "after the group"),
        ("$share/g/", "after the group"),
        ("$share/g/a/#/b", "last"),
    ],
)
def test_a_filter_against_the_rules_is_told_what_is_wrong(name: str, word: str) -> None:
    assert word in (validate_filter(name) or "")


CASES = [
    ("a/b", "a/b", True),
    ("a/b", "a/b/c", False),
    ("a/b", "a", False),
    ("a", "A", False),
    ("+", "a", True),
    ("+", "/a", False),
    ("+/+", "/a", True),
    ("/+", "/a", True),
    ("a/+", "a/", True),
    ("a/+", "a", False),
    ("a/+/c", "a/b/c", True),
    ("#", "a/b/c", True),
    ("#", "/", True),
    ("a/#", "a", True),
    ("a/#", "a/", True),
    ("a/#", "a/b/c", True),
    ("a/#", "ab", False),
    ("+/#", "a", True),
    ("#", "$SYS/x", False),
    ("+/x", "$SYS/x", False),
    ("$SYS/#", "$SYS/x", True),
    ("$SYS/+", "$SYS/x", True),
    ("$SYS/#", "$SYS", True),
    ("a/#", "a/$b", True),
    ("$share/g/a/#", "a/b", True),
    ("$share/g/#", "$SYS/x", False),
]


@pytest.mark.parametrize(("name", "topic", "expected"), CASES)
def test_a_filter_matches_as_the_standard_says(name: str, topic: str, expected: bool) -> None:
    assert matches(name, topic) is expected


@pytest.mark.parametrize(("name", "topic", "expected"), CASES)
def test_the_router_matches_as_the_standard_says(name: str, topic: str, expected: bool) -> None:
    assert Router({name: ["r"]}).match(topic) == (("r",) if expected else ())


def test_a_target_with_two_matching_filters_comes_once_and_in_the_order_named() -> None:
    router = Router({"a/#": ["first", "second"], "a/b": ["third", "first"], "+/b": ["second"]})

    assert router.match("a/b") == ("first", "second", "third")


def test_a_full_cache_still_gives_right_answers() -> None:
    router = Router({"a/+": ["r"], "b": ["s"]}, max_cached_topics=2)

    answers = [router.match(topic) for topic in ("a/1", "a/2", "a/3", "b", "a/1", "c")]

    assert answers == [("r",), ("r",), ("r",), ("s",), ("r",), ()]


def test_the_cache_never_holds_more_topics_than_it_may() -> None:
    router = Router({"#": ["r"]}, max_cached_topics=10)

    for number in range(1000):
        router.match(f"t/{number}")

    assert len(router._cache) <= 10


def test_a_topic_with_as_many_levels_as_fit_is_matched() -> None:
    assert Router({"/#": ["r"], "+": ["s"]}).match("/" * 65535) == ("r",)


def test_an_invalid_filter_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'a/#/b': # must be the last level"):
        Router({"a/#/b": ["r"]})


def test_equal_filters_become_one_subscription_with_the_higher_qos() -> None:
    assert subscriptions([("a", 0), ("b", 1), ("a", 1), ("b", 0)]) == [("a", 1), ("b", 1)]
