"""What `check` says of filters that overlap in part."""

import pytest

from gatewayd.config.load import Problem, examine_text

CONFIG = """[source]
protocol = "{protocol}"
[routes.one]
topics = ["a/+/c", "x/#"]
handler = "threshold"
[routes.two]
topics = [
    "x/y",
    "a/b/+",
]
handler = "threshold"
enabled = {enabled}
"""


def overlaps(protocol: str, *, enabled: bool = True) -> list[Problem]:
    text = CONFIG.format(protocol=protocol, enabled=str(enabled).lower())
    return [problem for problem in examine_text(text, "config.toml")[1] if "overlaps" in str(problem)]


def test_a_partial_overlap_on_3_1_1_is_a_warning_at_the_line_of_the_second_filter() -> None:
    (found,) = overlaps("3.1.1")

    assert found.line == 9
    assert found.is_warning
    assert "`a/b/+` overlaps `a/+/c`" in str(found)


@pytest.mark.parametrize(("protocol", "enabled"), [("5", True), ("3.1.1", False)])
def test_where_copies_are_told_apart_or_the_route_is_off_there_is_nothing_to_say(protocol: str, enabled: bool) -> None:
    assert overlaps(protocol, enabled=enabled) == []
