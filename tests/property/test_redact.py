"""Whatever surrounds them: addresses, numbers of cards and accounts that were put into a value do not leave."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewayd.cascade.patterns import NAMED, is_iban, is_luhn
from gatewayd.cascade.redact import Redactor

EVERYTHING_BUT_NUMBERS = Redactor([name for name in NAMED if name != "number"])
# What may stand beside a secret: anything that does not continue it.
BESIDE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: f" {text} ")


@st.composite
def cards(draw: st.DrawFn) -> str:
    n_digits = draw(st.sampled_from([14, 15, 16, 19]))
    digits = draw(st.sampled_from("34569")) + "".join(
        draw(st.lists(st.sampled_from("0123456789"), min_size=n_digits - 2, max_size=n_digits - 2))
    )
    number = next(digits + check for check in "0123456789" if is_luhn(digits + check))
    gap = draw(st.sampled_from(["", " ", "-", "."]))
    return gap.join(number[start : start + 4] for start in range(0, len(number), 4))


@st.composite
def ibans(draw: st.DrawFn) -> str:
    country, n_chars = draw(st.sampled_from([("DE", 22), ("GB", 22), ("NO", 15), ("FR", 27), ("MT", 31)]))
    account = "".join(draw(st.lists(st.sampled_from("0123456789ABCXYZ"), min_size=n_chars - 4, max_size=n_chars - 4)))
    number = next(text for check in range(2, 99) if is_iban(text := f"{country}{check:02}{account}"))
    gap = draw(st.sampled_from(["", " "]))
    return gap.join(number[start : start + 4] for start in range(0, len(number), 4))


secrets = st.one_of(
    st.emails(),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
    st.uuids().map(str),
    st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")),
    cards(),
    ibans(),
)


@st.composite
def values(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """A value with secrets at any depth, in texts and in keys, and those secrets."""
    hidden: list[str] = []

    def text(_: None) -> str:
        secret = draw(secrets)
        hidden.append(secret)
        return draw(BESIDE) + secret + draw(BESIDE)

    leaves = st.one_of(st.none().map(text), st.text(max_size=10), st.floats(allow_nan=False), st.booleans())
    value = draw(
        st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.one_of(st.text(max_size=5), st.none().map(text)), inner, max_size=3),
            ),
            max_leaves=6,
        )
    )
    return value, hidden


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values())
def test_what_was_put_in_does_not_leave(made: tuple[Any, list[str]]) -> None:
    value, hidden = made

    left = json.dumps(EVERYTHING_BUT_NUMBERS.redact(value)[0], ensure_ascii=False).lower()

    for secret in hidden:
        assert json.dumps(secret, ensure_ascii=False)[1:-1].lower() not in left


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = EVERYTHING_BUT_NUMBERS.redact(text)[0]

    assert EVERYTHING_BUT_NUMBERS.redact(once)[0] == once


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200))
def test_no_digit_is_left_where_numbers_go(text: str) -> None:
    left = Redactor(["number"]).redact(text)[0]

    assert not any(char.isdecimal() for char in left)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_whatever_comes_what_leaves_is_json(value: Any) -> None:
    left = Redactor(list(NAMED)).redact(value)[0]

    json.dumps(left)
