"""`gatewayd spool …` beside a running daemon, with real processes: what it reads, and what the daemon does for it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cli import as_json, command, publish
from tests.sim.gateway import Gateway, wait_until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

CONFIG = """
[source]
port = {port}
[sinks.away]
type = "http"
url = "http://127.0.0.1:9/events"
[sinks.file]
type = "file"
path = "out.ndjson"
[routes.ovens]
topics = ["cli/ovens/#"]
handler = "threshold"
sinks = ["file", "away"]
payload = {{ format = "number" }}
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
"""


def spool(gateway: Gateway, *arguments: str) -> tuple[int, str, str]:
    return command(gateway, "spool", *arguments)


def rows(gateway: Gateway, *arguments: str) -> Any:
    return as_json(gateway, "spool", "ls", *arguments)


@pytest.fixture
def broker(new_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    return new_mosquitto()


@pytest.fixture
def running(broker: Mosquitto, tmp_path: Path) -> Iterator[Gateway]:
    """A daemon that has two results for a cloud that is away, and has buried a message that was no number."""
    gateway = Gateway(tmp_path / "gateway", CONFIG.format(port=broker.port), name="hall-3")
    gateway.start()
    wait_until(lambda: is_heard(gateway, broker), 20, gateway.describe)
    publish(broker, "91.5", "12", "91.5 degrees")
    wait_until(lambda: messages(gateway)["dead"] == 1, 20, gateway.describe)
    yield gateway
    gateway.end()


def messages(gateway: Gateway) -> dict[str, int]:
    return gateway.books().messages["ovens"]


def is_heard(gateway: Gateway, broker: Mosquitto) -> bool:
    """Whether messages come through: a connection is not a subscription yet."""
    publish(broker, "1")
    return messages(gateway)["received"] > 0


def delivered(gateway: Gateway) -> list[Any]:
    """What is in the file sink's file."""
    file = gateway.folder / "state" / "out.ndjson"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_letter_is_brought_back_by_the_daemon_and_handled_again(running: Gateway) -> None:
    (before,) = rows(running, "--dead")
    received = messages(running)["received"]

    status, words, error = spool(running, "requeue", before["id"])

    assert (status, words) == (0, "1 dead letter brought back.\n"), error
    # Still no number: it comes to where it was, under another id, without the daemon being restarted.
    wait_until(lambda: [row["id"] for row in rows(running, "--dead")] == ["d:2"], 20, running.describe)
    (after,) = rows(running, "--dead")
    assert {**after, "id": "d:1"} == before
    books = as_json(running, "spool", "audit")
    assert (books["balanced"], books["messages"]["received"], books["messages"]["dead"]) == (True, received, 1)


def test_with_the_config_mended_it_is_answered(running: Gateway) -> None:
    running.stop()
    mended = (
        running.config.read_text()
        .replace('format = "number"', 'format = "text"')
        .replace('handler = "threshold"', 'handler = "summarize_text"\nwindow = { every_s = 0.5 }')
    )
    running.config.write_text(mended.split("[[routes.ovens.options.rules]]")[0])
    running.start()

    assert spool(running, "requeue", "--dead", "--yes")[0] == 0

    wait_until(lambda: any(event["type"].endswith("summary") for event in delivered(running)), 20, running.describe)
    assert as_json(running, "spool", "audit")["balanced"]
    assert rows(running, "--dead") == []
    assert messages(running)["handled"] == messages(running)["received"]


def test_an_export_of_what_was_buried_is_replayed_with_the_same_key(running: Gateway) -> None:
    (letter,) = rows(running, "--dead")
    export = running.folder / "dead.ndjson"
    assert spool(running, "export", "--dead", "-o", str(export))[0] == 0
    # What was wrong is put right by hand, as one would.
    export.write_text(export.read_text().replace('"data":"91.5 degrees"', '"data":"91.5"'))

    status, results, said = command(running, "replay", str(export))

    assert status == 0, said
    (event,) = map(json.loads, results.splitlines())
    assert (event["id"], event["subject"], event["data"]["label"]) == (letter["key"], "cli/ovens/1", "hot")


def test_results_are_given_up_for_the_sink_that_is_away(running: Gateway) -> None:
    wait_until(lambda: len(delivered(running)) == 2, 20, running.describe)
    assert len(rows(running, "--sink", "away")) == 2

    wait_until(lambda: spool(running, "purge", "--results", "--sink", "away", "--yes")[0] == 0, 30, running.describe)

    assert [row for row in rows(running) if row["kind"] != "loss"] == []  # of what was given up the cloud is told
    books = as_json(running, "spool", "audit")
    assert books["balanced"]
    assert books["reasons"]["results/ovens/away/evicted"]["purged"] >= 2
    assert running.stop() == 0


def test_a_spool_in_use_is_examined(running: Gateway, broker: Mosquitto) -> None:
    command_line = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", "cli/ovens/2", "-l"]
    load = subprocess.Popen(command_line, stdin=subprocess.PIPE)
    assert load.stdin is not None
    for n in range(4):
        load.stdin.write(b"".join(b"%d\n" % (70 + 20 * (i % 2)) for i in range(300)))
        load.stdin.flush()

        status, words, error = spool(running, "fsck", *["--full"][: n % 2])

        assert (status, words.splitlines()[-1]) == (0, "Clean."), words + error
    load.stdin.close()
    assert load.wait(timeout=120) == 0


def test_an_order_outlives_the_daemon_that_did_not_see_it(running: Gateway) -> None:
    """It is put into the spool while the daemon is stopped dead, and carried out by the next one, once."""
    assert running.process is not None
    running.process.send_signal(19)  # SIGSTOP
    status, _, error = spool(running, "purge", "--dead", "--yes", "--wait", "1")
    assert (status, "the daemon has done nothing about the order for 1 s" in error) == (1, True), error
    running.kill()

    running.start()

    wait_until(lambda: rows(running, "--dead") == [], 20, running.describe)
    assert running.books().n_purged == 1
    assert running.books().balanced


def test_a_reader_that_stops_reading_is_no_error(running: Gateway) -> None:
    pipe = f"{sys.executable} -m gatewayd spool export --results -c {running.config} | head -c 1"

    done = subprocess.run(["bash", "-c", pipe], capture_output=True, check=False, timeout=120)

    assert b"Traceback" not in done.stderr
