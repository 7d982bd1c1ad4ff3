"""Bisection: whatever the far side refuses, exactly that is buried, and it costs few requests."""

from math import ceil, log2

from hypothesis import example, given
from hypothesis import strategies as st

from gatewayd.delivery import Delivery, Settled
from tests.sim.spool import results


@given(n=st.integers(1, 300), picks=st.sets(st.integers(0, 299)))
@example(n=256, picks={0, 255})
@example(n=1, picks={0})
def test_any_subset_refused_is_buried_and_all_others_are_delivered_once(n: int, picks: set[int]) -> None:
    batch = results("r", n)
    refused = {f"r-{pick}" for pick in picks if pick < n}
    delivery, delivered, n_requests = Delivery(batch, Settled()), [], 0

    while part := delivery.next():
        n_requests += 1
        if any(result.key in refused for result in part):
            delivery.refused("422")
        else:
            delivered += [result.key for result in part]
            delivery.stored({})

    assert delivery.outcome() == dict.fromkeys(refused, "422")
    assert delivered == [result.key for result in batch if result.key not in refused]
    assert n_requests <= 1 + 2 * len(refused) * ceil(log2(n) if n > 1 else 0)


@given(
    n=st.integers(1, 64),
    limit=st.integers(1, 64),
    refused=st.sets(st.integers(0, 63)),
    faults=st.lists(st.integers(1, 12), max_size=8),
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=8),
)
def test_nothing_confirmed_is_sent_again_however_often_the_sink_goes_away(
    n: int, limit: int, refused: set[int], faults: list[int], sizes: list[int]
) -> None:
    pending = results("r", n)
    settled, turn = Settled(), 0
    delivered: list[str] = []
    buried: dict[str, str] = {}

    while pending:
        lease = pending[: sizes[turn % len(sizes)]]
        fault_at = faults[turn] if turn < len(faults) else None
        turn += 1
        delivery, n_requests, failed = Delivery(lease, settled), 0, False
        while part := delivery.next():
            n_requests += 1
            if n_requests == fault_at:
                failed = True
                break
            if len(part) > limit:
                delivery.too_large()
            elif any(result.row in refused for result in part):
                delivery.refused("422")
            else:
                delivered += [result.key for result in part]
                delivery.stored({})
        if not failed:
            buried |= delivery.outcome()
            pending = pending[len(lease) :]

    assert len(delivered) == len(set(delivered))
    assert set(delivered) == {f"r-{row}" for row in range(n) if row not in refused}
    assert set(buried) == {f"r-{row}" for row in range(n) if row in refused}
    assert settled.verdicts == {}


def test_rows_that_were_evicted_are_forgotten() -> None:
    settled = Settled()
    delivery = Delivery(results("r", 2), settled)
    delivery.refused("422")
    delivery.stored({})

    Delivery(results("r", 2, first=5), settled)

    assert settled.verdicts == {}
