import pytest

from gatewayd.subscribing import covers, overlap, plan_subscriptions


@pytest.mark.parametrize(
    ("general", "special", "expected"),
    [
        ("plant/#", "plant/+/vibration", True),
        ("plant/#", "plant", True),
        ("plant/+", "plant/#", False),
        ("#", "+/#", True),
        ("+/#", "#", True),
        ("+/+/#", "#", False),
        ("/+/#", "/#", True),
        ("#", "$SYS/#", False),
        ("$SYS/#", "$SYS/broker/+", True),
        ("+/a", "$x/a", False),
        ("a/+", "a/b/c", False),
        ("$share/g/a/#", "$share/g/a/b", True),
    ],
)
def test_one_filter_covers_another(general: str, special: str, expected: bool) -> None:
    assert covers(general, special) is expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a/+/c", "a/b/+", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "+/b", True),
        ("a/b/#", "a/+", True),
        ("#", "$SYS/x", False),
        ("a", "a/b", False),
        ("/#", "+", False),
    ],
)
def test_two_filters_overlap(a: str, b: str, expected: bool) -> None:
    assert overlap(a, b) is overlap(b, a) is expected


def test_a_covered_filter_is_dropped_and_the_covering_one_takes_its_qos() -> None:
    plan = plan_subscriptions([("plant/+/vibration", 1), ("plant/#", 0), ("log/#", 0), ("log/#", 1)])

    assert plan.subscriptions == (("plant/#", 1), ("log/#", 1))
    assert not plan.has_overlap


def test_what_overlaps_in_part_is_kept_and_named() -> None:
    plan = plan_subscriptions([("a/+/c", 1), ("x", 0), ("a/b/+", 0)])

    assert plan.subscriptions == (("a/+/c", 1), ("x", 0), ("a/b/+", 0))
    assert plan.overlaps == (("a/+/c", "a/b/+"),)


def test_a_shared_and_a_plain_subscription_do_not_stand_for_each_other() -> None:
    asked = [("$share/g/a/b", 1), ("a/#", 0), ("$share/h/a/b", 0)]

    plan = plan_subscriptions(asked)

    assert plan.subscriptions == tuple(asked)
    assert not plan.has_overlap
