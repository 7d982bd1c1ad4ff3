"""Names of messages and results."""

import pytest

from gatewayd.keys import KeyMaker, identity, publisher_key, result_key, window_key


def test_keys_are_unique_and_sort_in_order_of_making() -> None:
    keys = KeyMaker("00c0ffee00c0ffee")

    made = [keys.next() for _ in range(1000)]

    assert len(set(made)) == 1000
    assert sorted(made) == made


def test_two_runs_make_different_keys() -> None:
    assert KeyMaker("aaaa").next() != KeyMaker("bbbb").next()


def test_a_publishers_key_is_the_same_for_every_copy() -> None:
    assert publisher_key("t", "/pump", "7") == publisher_key("t", "/pump", "7")
    assert publisher_key("t", "/pump", "7") == "a09792a1da7af781326e62b07f06430c"  # in every version


@pytest.mark.parametrize("other", [("u", "/pump", "7"), ("t", "/pum", "p7"), ("t", "/pump", "8"), ("t", "7", "/pump")])
def test_a_publishers_key_differs_with_each_of_its_parts(other: tuple[str, str, str]) -> None:
    assert publisher_key("t", "/pump", "7") != publisher_key(*other)


def test_an_identity_is_ten_bytes_that_begin_with_the_packet_identifier() -> None:
    assert identity(0x0102, "t", b"x")[:2] == b"\x01\x02"
    assert len(identity(65535, "t", b"x" * 1000)) == 10


@pytest.mark.parametrize("other", [(2, "t", b"x"), (1, "u", b"x"), (1, "t", b"y"), (1, "tx", b""), (1, "", b"tx")])
def test_an_identity_differs_with_each_of_its_parts(other: tuple[int, str, bytes]) -> None:
    assert identity(1, "t", b"x") != identity(*other)


def test_the_first_result_has_its_messages_key_and_the_others_a_number() -> None:
    assert [result_key("k", index) for index in range(3)] == ["k", "k.1", "k.2"]


def test_a_windows_key_depends_on_its_messages_in_order() -> None:
    keys = {window_key("r", "w", messages) for messages in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}

    assert len(keys) == 5
    assert window_key("r", "w", ["a", "b"]) == window_key("r", "w", ["a", "b"])
    assert window_key("r", "w", ["a", "b"]) != window_key("r", "", ["w", "a", "b"])


def test_a_key_takes_any_text_a_payload_can_bring() -> None:
    assert len(window_key("r", "\ud800", [])) == 32
