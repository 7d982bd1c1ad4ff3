"""Receipts over reconnects, without a broker."""

import pytest

from gatewayd.mqtt.receipts import Receipt, Receipts


@pytest.fixture
def receipts() -> Receipts[str]:
    made: Receipts[str] = Receipts()
    made.connected(session_present=False)
    return made


def handles(receipts: Receipts[str]) -> list[str]:
    return [handle for _, handle in receipts.ready()]


def add(receipts: Receipts[str], *mids: int) -> list[Receipt[str]]:
    return [receipts.add(mid, b"%d" % mid, f"m{mid}") for mid in mids]


def test_acknowledgements_leave_in_order_of_arrival(receipts: Receipts[str]) -> None:
    one, two, three = add(receipts, 1, 2, 3)

    receipts.ack([three, two])
    assert handles(receipts) == []

    receipts.ack([one])
    assert handles(receipts) == ["m1", "m2", "m3"]
    assert len(receipts) == 0


def test_a_redelivery_moves_the_receipt_to_the_new_handle(receipts: Receipts[str]) -> None:
    (one,) = add(receipts, 1)
    receipts.connected(session_present=True)

    assert receipts.rebind(1, b"1", "again") is one
    receipts.ack([one])

    assert handles(receipts) == ["again"]


def test_a_redelivery_of_what_was_acknowledged_meanwhile_is_ready_at_once(receipts: Receipts[str]) -> None:
    (one,) = add(receipts, 1)
    receipts.connected(session_present=True)
    receipts.ack([one])
    assert handles(receipts) == []

    assert receipts.rebind(1, b"1", "again") is one

    assert handles(receipts) == ["again"]


def test_another_content_under_the_same_packet_identifier_is_another_message(receipts: Receipts[str]) -> None:
    (old,) = add(receipts, 1)
    receipts.connected(session_present=True)

    assert receipts.rebind(1, b"other", "new") is None
    new = receipts.add(1, b"other", "new")
    receipts.ack([old])
    assert handles(receipts) == []
    receipts.ack([new])

    assert handles(receipts) == ["new"]


def test_a_lost_session_forgets_every_receipt(receipts: Receipts[str]) -> None:
    (one,) = add(receipts, 1)

    receipts.connected(session_present=False)
    receipts.ack([one])

    assert receipts.rebind(1, b"1", "again") is None
    assert handles(receipts) == []


def test_an_acknowledgement_that_did_not_get_out_is_kept_for_the_redelivery(receipts: Receipts[str]) -> None:
    (one,) = add(receipts, 1)
    receipts.ack([one])
    for receipt, _ in receipts.ready():
        receipts.keep(receipt)
    receipts.connected(session_present=True)

    receipts.rebind(1, b"1", "again")

    assert handles(receipts) == ["again"]


def test_a_second_delivery_on_the_same_connection_is_acknowledged_once(receipts: Receipts[str]) -> None:
    (one,) = add(receipts, 1)

    receipts.rebind(1, b"1", "again")
    receipts.ack([one])

    assert handles(receipts) == ["again"]


def test_there_are_never_more_receipts_than_packet_identifiers(receipts: Receipts[str]) -> None:
    for _ in range(3):
        add(receipts, *range(1, 101))
        receipts.connected(session_present=True)

    assert len(receipts) == 100
