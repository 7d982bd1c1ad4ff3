"""What is blacked out, what is left alone, and what a wrong pattern in the config says."""

import re
from typing import Any

import pytest

from gatewayd.cascade.patterns import NAMED, is_iban, is_luhn
from gatewayd.cascade.redact import Redactor, is_explosive, key_that_leaves, problem_of, redaction
from gatewayd.errors import ConfigError

NAMES = [name for name in NAMED if name != "number"]


def shown(value: Any, *patterns: str) -> Any:
    return Redactor(patterns or NAMES).redact(value)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # email
        ("mail alice.b+c@example.co.uk now", "mail [email] now"),
        ("<bob@x.org>, (carol@y.org)", "<[email]>, ([email])"),
        ("root@[192.0.2.1]", "[email]"),
        ('"john doe"@example.com', "[email]"),
        ("mülle.r@exämple.de", "[email]"),
        # ip
        ("from 10.0.0.1:80 to 192.168.1.254.", "from [ip]:80 to [ip]."),
        ("10.0.0.1.443 > 10.0.0.2.52344: tcp", "[ip] > [ip]: tcp"),
        ("net 10.1.0.0/16", "net [ip]/16"),
        ("ip10.0.0.1eth", "ip[ip]eth"),
        ("[2001:db8::1]:443 and fe80::1%eth0 and ::1", "[[ip]]:443 and [ip]%eth0 and [ip]"),
        ("2001:db8::1: refused", "[ip]: refused"),
        ("::ffff:10.1.2.3", "[ip]"),
        # mac
        ("aa:bb:cc:dd:ee:ff 00-1B-44-11-3A-B7 001b.4411.3ab7", "[mac] [mac] [mac]"),
        ("shelly1-AABBCCDDEEFF/relay", "shelly1-[mac]/relay"),
        ("zigbee 00:12:4b:00:1c:a1:b2:c3", "zigbee [mac]"),
        # uuid
        ("{123e4567-e89b-12d3-a456-426614174000}", "{[uuid]}"),
        # phone
        ("+49 170 1234567, +1 (555) 123-4567", "[phone], [phone]"),
        ("0049 30 123456 or 030/1234567 or (555) 123-4567", "[phone] or [phone] or [phone]"),
        # card
        ("4111 1111 1111 1111, 5500-0000-0000-0004", "[card], [card]"),
        ("no 12 4111111111111111 35", "no 12 [card] 35"),
        ("378282246310005", "[card]"),
        # iban
        ("DE89 3704 0044 0532 0130 00 is mine", "[iban] is mine"),
        ("gb82west12345698765432.", "[iban]."),
    ],
)
def test_what_identifies_goes(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "bearing 7 is at 71.5 C, 1200 rpm",
        "2026-11-21 12:30:00.123 level=warn",
        "2026-11-21T12:30:00Z",
        "std::string and dead::code",
        "1.3.6.1.4.1.311.21.8",  # an OID
        "firmware 2.14.1",
        "300.1.2.3 999.999.999.999",
        "1763724000000",  # milliseconds since the epoch
        "4111 1111 1111 1112",  # wrong check digit
        "a @ b, 5 @ 3.3 V",
        "0x1f 0012 007",
        "sha 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    ],
)
def test_what_identifies_nobody_stays(text: str) -> None:
    assert shown(text) == text


def test_an_account_with_wrong_check_digits_is_none() -> None:
    assert shown("DE88 3704 0044 0532 0130 00", "iban") == "DE88 3704 0044 0532 0130 00"


def test_numbers_go_whatever_they_are() -> None:
    assert shown("t=71.5 at 12:30, 1e-5, 1,234.5", "number") == "t=[number] at [number]:[number], [number], [number]"


def test_only_what_is_asked_for_goes() -> None:
    assert shown("a@b.org 10.0.0.1", "ip") == "a@b.org [ip]"


def test_values_are_gone_through_to_their_depths_keys_and_numbers_too() -> None:
    value = {
        "alice@x.org": {"seen": [True, None, 3, "bob@y.org"]},
        "bob@y.org": (4111111111111111, 71.5),
        "plain": "text",
    }

    assert shown(value) == {
        "[email]": {"seen": [True, None, 3, "[email]"]},
        "[email] 2": ["[card]", 71.5],
        "plain": "text",
    }


def test_what_is_not_touched_stays_what_it_is() -> None:
    value = {"t": 71.5, "n": 3, "on": True, "rows": [[1.0, 2.0]], "nothing": None}

    assert shown(value) == value


def test_without_patterns_nothing_is_looked_at() -> None:
    value = {"a@b.org": object()}

    assert Redactor([]).redact(value)[0] is value


@pytest.mark.parametrize("value", [b"a@b.org", object(), {1, 2}])
def test_what_cannot_be_looked_through_does_not_leave(value: Any) -> None:
    assert shown({"x": value}) == {"x": "[unknown]"}


def test_what_is_too_long_or_too_deep_does_not_leave() -> None:
    deep: Any = "a@b.org"
    for _ in range(300):
        deep = [deep]

    assert redaction(["email"], max_chars=64)("x" * 65) == "[too long]"
    assert "a@b.org" not in str(shown(deep))
    assert "[unknown]" in str(shown(deep))


def test_own_expressions_black_out_under_the_name_of_their_group() -> None:
    assert shown("badge B-1234 of ward 7", r"(?P<badge>B-\d+)", r"ward \d") == "badge [badge] of [redacted]"


def test_own_expressions_come_first_and_names_after_them() -> None:
    assert shown("host-10.0.0.1", r"host-\S+", "ip") == "[redacted]"


def test_what_was_found_is_counted() -> None:
    counts: dict[str, int] = {}

    def count(name: str, n: int) -> None:
        counts[name] = counts.get(name, 0) + n

    redact = redaction(["email", "ip", r"B-\d+"], max_chars=100, count=count)
    redact({"a@b.org": "10.0.0.1 10.0.0.2 B-7"})
    redact("x" * 101)
    redact("nothing")

    assert counts == {"email": 1, "ip": 2, "redacted": 1, "too_long": 1}


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("emial", "did you mean `email`?"),
        ("surname", "the names are email, uuid"),
        ("(", "is no regular expression"),
        (r"\d*", "matches the empty text"),
    ],
)
def test_a_wrong_pattern_is_a_mistake_in_the_config(pattern: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        redaction(["email", pattern], key="routes.logs.escalation.redact")

    assert caught.value.key == "routes.logs.escalation.redact[1]"


@pytest.mark.parametrize("pattern", ["email", "number", r"B-\d+", "(?:foo)", "[a-z]+@corp"])
def test_a_good_pattern_is_none(pattern: str) -> None:
    assert problem_of(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "is_one"),
    [
        (r"(a+)+", True),
        (r"(?:a+)+b", True),
        (r"([a-z]*)*", True),
        (r"(?:x(?:a+)b)*", True),
        (r"(\w+\s?)+$", True),
        (r"(?P<name>a+){2,}", True),
        (r"(a|b)+", False),
        (r"(?:\d{2}-)+x", False),
        (r"[(+)+]", False),
        (r"\(a+\)+", False),
        (r"B-\d+", False),
    ],
)
def test_a_repetition_within_a_repetition_is_found(pattern: str, is_one: bool) -> None:
    assert is_explosive(pattern) == is_one


@pytest.mark.parametrize(
    "unit",
    ["a", "1 ", "1.", ":", "a:", "a@", "DE12", '"', "+1", "0", "(", "a.", "aa:", "0123-", "1-", "a@a.", "@a", "4 1"],
)
def test_no_text_takes_long(unit: str) -> None:
    """Eight times the text takes about eight times as long: no named pattern goes back over what it has seen."""
    text = unit * (32_768 // len(unit))

    Redactor(list(NAMED)).redact(text)  # the time limit of a test is what fails here: squares would take minutes


def test_checksums_are_those_of_the_standards() -> None:
    assert [is_luhn(text) for text in ("79927398713", "79927398710", "0")] == [True, False, True]
    assert [is_iban(text) for text in ("GB82WEST12345698765432", "GB83WEST12345698765432")] == [True, False]


def test_a_key_that_says_who_sent_it_does_not_leave_and_is_always_the_same() -> None:
    redact = redaction(["email"])

    hidden = key_that_leaves("alice@example.org/1", redact)

    assert key_that_leaves("m-1", redact) == "m-1"
    assert "alice" not in hidden
    assert hidden == key_that_leaves("alice@example.org/1", redact) != key_that_leaves("alice@example.org/2", redact)
