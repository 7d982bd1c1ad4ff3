"""Fixtures for every test folder: real brokers, and the daemon's clock as it is in production."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from gatewayd.clock import SystemClock
from tests.sim.mosquitto import Mosquitto, find_mosquitto


@pytest.fixture
def real_clock() -> SystemClock:
    return SystemClock()


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A test that sets up logging leaves nothing behind for the next one."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.fixture(scope="session")
def mosquitto_binary() -> str:
    binary = find_mosquitto()
    if binary is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto")
    return binary


@pytest.fixture(scope="session")
def mosquitto(mosquitto_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One broker for all tests that leave it as it is; each test has topics and client ids of its own."""
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def new_mosquitto(mosquitto_binary: str, tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes and starts brokers that a test may stop, kill and pause. Takes the arguments of `Mosquitto`."""
    brokers: list[Mosquitto] = []

    def make(**options: Any) -> Mosquitto:
        broker = Mosquitto(tmp_path / f"broker{len(brokers)}", **options)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.kill()
