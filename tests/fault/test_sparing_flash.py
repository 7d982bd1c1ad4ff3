"""`write = "when_offline"` in the real daemon: what a kill -9 takes is what was said, and nothing else takes more."""

import random
import time
from pathlib import Path

import pytest

from benchmarks.flash import compare
from tests.sim.gateway import Gateway, wait_until
from tests.sim.oracle import Line
from tests.sim.rig import Bench, bench

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("mosquitto_binary"),
]

SEED = 20261121
MAX_RESULTS = 40


def sparing(the: Bench, *, max_s: float = 60.0) -> Gateway:
    """A daemon whose route spares flash, and whose cloud has confirmed something."""
    route = f'write = "when_offline"\nwrite_max_s = {max_s}\nwrite_max_results = {MAX_RESULTS}'
    gateway = the.gateway(route=route)
    the.cloud.start()
    gateway.start()
    wait_until(lambda: the.is_fresh_through(within_s=5), 60, gateway.describe)  # connected is not yet subscribed
    return gateway


def in_memory(gateway: Gateway) -> int:
    n: int = gateway.get("/status")["spool"]["in_memory"]["readings"]
    return n


def sent(the: Bench, n: int, first: int = 0) -> None:
    """The broker has acknowledged `n` messages to the device."""
    the.send(n_messages=n, first=first).finish()


def judged(the: Bench) -> Line:
    """What arrived in the end, books included."""
    line = Line(test="sparing flash", subject="gatewayd", seed=SEED)
    the.settle(patience_s=4.0)
    the.close_books(line)
    return line


def test_a_kill_takes_what_is_in_memory_and_the_books_do_not_know_it(tmp_path: Path) -> None:
    with bench(tmp_path / "bench", SEED) as the:
        gateway = sparing(the)
        the.cloud.freeze()
        sent(the, 20)
        wait_until(lambda: in_memory(gateway) == 20, 20, gateway.describe)

        gateway.kill()
        the.cloud.thaw()
        gateway.start()
        line = judged(the)

        assert 0 < line.lost <= 20  # more than none, or this shows nothing; the first was on its way
        assert (line.phantom, line.corrupt, line.out_of_order, line.problems) == (0, 0, 0, [])


def test_a_clean_stop_takes_nothing(tmp_path: Path) -> None:
    with bench(tmp_path / "bench", SEED) as the:
        gateway = sparing(the)
        the.cloud.freeze()
        sent(the, 20)
        wait_until(lambda: in_memory(gateway) == 20, 20, gateway.describe)

        assert gateway.stop() == 0
        assert gateway.n_pending() == 20
        the.cloud.thaw()
        gateway.start()
        line = judged(the)

        assert (line.lost, line.phantom, line.corrupt, line.out_of_order, line.problems) == (0, 0, 0, 0, [])


def test_what_is_older_than_the_window_survives_a_kill(tmp_path: Path) -> None:
    with bench(tmp_path / "bench", SEED) as the:
        gateway = sparing(the, max_s=1.0)
        the.cloud.freeze()
        sent(the, 20)
        wait_until(lambda: gateway.n_pending() == 20, 20, gateway.describe)

        gateway.kill()
        the.cloud.thaw()
        gateway.start()

        assert judged(the).lost == 0


def test_more_than_the_window_survives_a_kill(tmp_path: Path) -> None:
    with bench(tmp_path / "bench", SEED) as the:
        gateway = sparing(the)
        the.cloud.freeze()
        sent(the, 10 * MAX_RESULTS)
        wait_until(lambda: gateway.n_pending() == 10 * MAX_RESULTS, 20, gateway.describe)

        gateway.kill()
        the.cloud.thaw()
        gateway.start()

        assert judged(the).lost == 0


def test_all_that_comes_while_the_cloud_is_away_survives_a_kill(tmp_path: Path) -> None:
    with bench(tmp_path / "bench", SEED) as the:
        gateway = sparing(the)
        the.cloud.stop()
        device = the.send(per_s=200)
        wait_until(lambda: gateway.n_pending() > 200, 30, gateway.describe)
        device.halt()
        device.finish()
        wait_until(lambda: gateway.n_pending() == device.n_sent, 20, gateway.describe)

        gateway.kill()
        the.cloud.start()
        gateway.start()
        line = judged(the)

        assert (line.lost, line.phantom, line.corrupt, line.out_of_order, line.problems) == (0, 0, 0, 0, [])
        assert line.acked > 200


def test_kills_while_all_is_well_lose_no_more_than_the_window_each(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    n_kills = 5
    with bench(tmp_path / "bench", SEED) as the:
        gateway = sparing(the, max_s=5.0)
        device = the.send(per_s=300)
        for _ in range(n_kills):
            time.sleep(chance.uniform(0.5, 1.5))
            gateway.kill()
            gateway.start()
        device.halt()
        device.finish()
        line = judged(the)

        assert line.lost <= n_kills * MAX_RESULTS
        assert (line.phantom, line.corrupt, line.problems) == (0, 0, [])
        assert line.acked > 1000


def test_flash_is_spared(tmp_path: Path) -> None:
    lines, share = compare(tmp_path, SEED, seconds=5.0, rate=50.0)

    assert [line.problems for line in lines] == [[], []]
    assert share < 0.1
