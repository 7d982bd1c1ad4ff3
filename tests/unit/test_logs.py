"""gatewayd.logs: one line an event, the level the journal wants, nothing secret, no storm."""

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

import pytest
import structlog
from structlog.testing import capture_logs

from gatewayd.config import read_environment
from gatewayd.config.environment import Environment
from gatewayd.config.schema import Log
from gatewayd.logs import RateLimited, set_up

NOWHERE = read_environment({})


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_on_one_line() -> None:
    out = io.StringIO()
    set_up(Log(), NOWHERE, out)

    structlog.get_logger("gatewayd.x").warning("sink went away", sink="cloud", cause="two\nlines")

    [line] = lines_of(out)
    assert line.pop("timestamp")
    assert line == {
        "event": "sink went away",
        "level": "warning",
        "logger": "gatewayd.x",
        "sink": "cloud",
        "cause": "two\nlines",
    }


def test_a_traceback_stays_on_the_line() -> None:
    out = io.StringIO()
    set_up(Log(), NOWHERE, out)

    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("handler failed")

    [line] = lines_of(out)
    assert "ValueError: broken" in str(line["exception"])


def test_less_than_the_level_is_not_logged() -> None:
    out = io.StringIO()
    set_up(Log(level="warning"), NOWHERE, out)

    structlog.get_logger().info("not this")
    logging.getLogger("library").info("nor this")
    logging.getLogger("library").warning("but %s", "this")

    assert [line["event"] for line in lines_of(out)] == ["but this"]


def test_what_is_named_like_a_secret_or_payload_is_masked_and_numbers_are_not() -> None:
    out = io.StringIO()
    set_up(Log(), NOWHERE, out)

    structlog.get_logger().info(
        "x", Password="hunter2", api_token="hunter2", payload=b"hunter2", payload_bytes=7, tokens_in=3
    )

    assert "hunter2" not in out.getvalue()
    assert {"payload_bytes": 7, "tokens_in": 3}.items() <= lines_of(out)[0].items()


def journal(stream: TextIO) -> Environment:
    status = os.fstat(stream.fileno())
    return read_environment({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})


def test_under_the_journal_a_line_has_its_syslog_level_and_no_time() -> None:
    with tempfile.TemporaryFile("w+") as out:
        set_up(Log(), journal(out), out)

        structlog.get_logger().error("data lost")
        logging.getLogger("library").warning("odd")

        out.seek(0)
        first, second = out.read().splitlines()
    assert first.startswith("<3>{")
    assert second.startswith("<4>{")
    assert "timestamp" not in json.loads(first[3:])


def test_a_journal_that_is_not_this_stream_changes_nothing() -> None:
    out = io.StringIO()
    set_up(Log(), read_environment({"JOURNAL_STREAM": "1:2"}), out)

    structlog.get_logger().info("x")

    assert "timestamp" in lines_of(out)[0]


def test_the_console_is_for_people() -> None:
    out = io.StringIO()
    set_up(Log(format="console"), NOWHERE, out)

    structlog.get_logger().info("route started", route="pumps")

    assert "route started" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_a_failure_is_said_once_then_rarely_then_that_it_is_over() -> None:
    now = [0.0]
    limited = RateLimited(30.0, lambda: now[0])

    with capture_logs() as logs:
        for at in (0.0, 1.0, 29.0, 31.0, 32.0, 40.0):
            now[0] = at
            limited.log("cloud", "sink is away", sink="cloud")
        limited.recovered("cloud", "sink is back", sink="cloud")
        limited.recovered("cloud", "sink is back", sink="cloud")

    assert [(line["event"], line.get("left_out"), line.get("failures")) for line in logs] == [
        ("sink is away", None, None),
        ("sink is away", 2, None),
        ("sink is back", None, 6),
    ]


def test_a_library_says_the_same_thing_once_in_a_while_and_we_say_all() -> None:
    out = io.StringIO()
    set_up(Log(repeat_s=3600.0), NOWHERE, out)

    for number in range(3):
        logging.getLogger("opentelemetry.exporter").warning("transient error %s", number)
        logging.getLogger("aiohttp.server").error("another %s", number)
        structlog.get_logger().info("batch handled")

    events = [line["event"] for line in lines_of(out)]
    assert sorted(events) == ["another 0", "batch handled", "batch handled", "batch handled", "transient error 0"]


def test_different_failures_do_not_hide_each_other() -> None:
    limited = RateLimited(30.0, lambda: 0.0)

    with capture_logs() as logs:
        limited.log("a", "a failed")
        limited.log("b", "b failed", level="error")

    assert [line["log_level"] for line in logs] == ["warning", "error"]


def test_standard_error_is_where_logs_go_and_standard_output_stays_clean() -> None:
    code = (
        "import structlog; from gatewayd.logs import set_up; from gatewayd.config import read_environment;"
        "from gatewayd.config.schema import Log; set_up(Log(), read_environment()); structlog.get_logger().info('x')"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout == ""
    assert json.loads(done.stderr)["event"] == "x"


def test_a_logger_that_was_used_before_takes_the_new_level() -> None:
    held = structlog.get_logger("gatewayd.held")
    out = io.StringIO()
    set_up(Log(level="warning"), NOWHERE, out)
    held.info("not yet")

    set_up(Log(level="info"), NOWHERE, out)
    held.info("now")

    assert "not yet" not in out.getvalue()
    assert "now" in out.getvalue()
