"""`gatewayd init` against a real Mosquitto with devices on it: the config it writes is run, and gives results."""

import json
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto, free_port

pytestmark = pytest.mark.broker


def init(folder: Path, *arguments: str, typed: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", "init", *arguments],
        cwd=folder, input=typed, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def publish(broker: Mosquitto, topic: str, payload: str, *more: str) -> None:
    subprocess.run(
        ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", topic, "-m", payload, *more], check=True, timeout=120
    )


@contextmanager
def devices(broker: Mosquitto) -> Iterator[None]:
    """Two ovens, a door and a log, several times a second."""
    ended = threading.Event()

    def live() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            for oven in (1, 2):
                publish(broker, f"plant/oven-{oven}/temperature", f"{70 + n % 5}.5")
            publish(broker, "plant/pump", json.dumps({"id": "p1", "data": {"rpm": 1400 + n % 7, "bar": 2.5}, "seq": n}))
            publish(broker, "logs/line1", f"pump {n} has started with a delay")

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)


def test_the_config_that_is_written_gives_results(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = new_mosquitto()
    with devices(broker):
        status, words, said = init(
            tmp_path, "--yes", "--broker", f"mqtt://127.0.0.1:{broker.port}", "--look", "2", "--state-dir", "state"
        )

    assert status == 0, words + said
    assert "`gatewayd check` passes it" in words
    text = (tmp_path / "config.toml").read_text()
    assert 'topics = ["plant/+/temperature"]' in text
    assert "outside" in text
    assert 'handler = "summarize_text"' in text

    gateway = Gateway(tmp_path / "unused", "")
    gateway.folder, gateway.config = tmp_path, tmp_path / "config.toml"
    gateway.config.write_text(text + f"[web]\nport = {gateway.web_port}\n")
    gateway.start()
    publish(broker, "plant/oven-1/temperature", "450")
    results = tmp_path / "state" / "results.ndjson"
    wait_until(lambda: results.exists() and b"temperature_unusual" in results.read_bytes(), 60, gateway.describe)
    gateway.end()


def test_the_five_questions_are_answered_by_a_person(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = new_mosquitto()
    publish(broker, "ovens/1", "80.5", "-r")
    typed = ["not a name", "hall-3", f"127.0.0.1:{broker.port}", "https://cloud.example/in", "99", "1", "proposed"]

    status, words, said = init(tmp_path, "--look", "1", typed="\n".join(typed) + "\n")

    assert status == 0, words + said
    assert "is no gateway id" in said
    assert "the list has 1 to 1" in said
    text = (tmp_path / "config.toml").read_text()
    assert 'id = "hall-3"' in text
    assert 'url = "https://cloud.example/in"' in text
    assert 'topics = ["ovens/1"]' in text


def test_without_a_broker_a_config_is_written_nevertheless(tmp_path: Path) -> None:
    status, words, said = init(tmp_path, "--yes", "--broker", f"127.0.0.1:{free_port()}", "--results", "none")

    assert status == 0, words + said
    assert "Connection refused" in said
    assert "an example" in (tmp_path / "config.toml").read_text()


def test_nothing_is_overwritten_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("# mine\n")
    broker = f"127.0.0.1:{free_port()}"

    refused = init(tmp_path, "--yes", "--broker", broker)
    kept = (tmp_path / "config.toml").read_text()
    forced = init(tmp_path, "--yes", "--broker", broker, "--force")

    assert refused[0] == 2
    assert "is there already" in " ".join(refused[2].replace("│", " ").split())
    assert kept == "# mine\n"
    assert forced[0] == 0
    assert (tmp_path / "config.toml.old").read_text() == "# mine\n"


def test_a_password_goes_into_a_file_of_its_own(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "hall", "topsecret"], check=True, timeout=120)
    broker = new_mosquitto(anonymous=False, settings=[f"password_file {passwords}"])
    address = f"mqtt://hall@127.0.0.1:{broker.port}"
    (tmp_path / "given").write_text("topsecret\n")
    (tmp_path / "given").chmod(0o600)
    (tmp_path / "wrong").write_text("guessed\n")
    (tmp_path / "wrong").chmod(0o600)

    refused = init(tmp_path, "--yes", "--broker", address, "--password-file", "wrong", "-c", "a.toml", "--look", "0.5")
    let_in = init(tmp_path, "--yes", "--broker", address, "--password-file", "given", "-c", "b.toml", "--look", "0.5")

    assert "does not let this user connect" in refused[2]
    assert "Seen: 0 messages" in let_in[1]
    for path in (tmp_path / "a.toml", tmp_path / "b.toml"):
        assert "topsecret" not in path.read_text()
    assert stat.S_IMODE((tmp_path / "given").stat().st_mode) == 0o600
