"""Links that break under a running gateway; and that the proxy which breaks them does."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.links import spoil
from tests.sim.mosquitto import Mosquitto
from tests.sim.proxy import Proxy, Toxic


@pytest.fixture
def proxy(mosquitto: Mosquitto) -> Iterator[Proxy]:
    made = Proxy(mosquitto.port)
    made.start()
    yield made
    made.stop()


def ask(proxy: Proxy, timeout_s: float) -> bytes:
    """What a broker behind the proxy answers to CONNECT (MQTT 3.1.1, no client id); raises OSError when cut off."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s) as link:
        link.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        return link.recv(4)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.usefixtures("mosquitto_binary")
def test_a_gateway_cut_off_again_and_again_loses_nothing(tmp_path: Path) -> None:
    line = spoil(tmp_path / "bench", 5, "partitions", 6)

    assert line.problems == []


@pytest.mark.broker
def test_the_proxy_hands_on_what_it_is_given(proxy: Proxy) -> None:
    assert ask(proxy, 5) == b"\x20\x02\x00\x00"


@pytest.mark.broker
def test_a_half_open_link_answers_nothing_and_says_nothing(proxy: Proxy) -> None:
    proxy.put([Toxic(kind="timeout", direction="upstream")])

    with pytest.raises(TimeoutError):
        ask(proxy, 0.3)


@pytest.mark.broker
def test_a_link_with_a_limit_ends_after_so_many_bytes(proxy: Proxy) -> None:
    proxy.put([Toxic(kind="limit_data", direction="downstream", max_bytes=2)])

    assert ask(proxy, 5) == b"\x20\x02"


@pytest.mark.broker
def test_nobody_listens_while_it_is_down_and_then_on_the_same_port(proxy: Proxy) -> None:
    proxy.down()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy, 5)

    proxy.up()

    assert ask(proxy, 5) == b"\x20\x02\x00\x00"
