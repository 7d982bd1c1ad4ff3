"""Whatever is typed, and whatever lies in the config: words and a documented exit status, never a traceback."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gatewayd.cli import main
from gatewayd.reference import EXIT_CODES
from tests.sim.mosquitto import free_port

PORT = free_port()
GOOD = f"""
[gateway]
id = "hall-3"
state_dir = "state"
[source]
port = {PORT}
[web]
port = {PORT}
[routes.ovens]
topics = ["ovens/#"]
handler = "threshold"
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
"""
# What only reads, or writes into an empty folder. `run` and `demo` would stay, `fetch` would download.
COMMANDS = [
    ["check"], ["check", "--changes"], ["check", "--against-broker", "--look", "0.1"], ["status"], ["top", "--once"],
    ["tail"], ["handlers"], ["route", "test", "ovens"], ["route", "explain", "ovens", "95"], ["spool", "status"],
    ["spool", "audit"], ["spool", "dead"], ["models", "ls"], ["models", "verify"], ["audit", "verify"],
    ["audit", "show"], ["models", "lessons"], ["doctor"],
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(
        ["-c", "--config", "--json", "--look", "-n", "--topics", "--broker", "--yes", "--from", "--", "-h"]
    ),
    st.sampled_from(["ovens", "0", "-1", "1e999", "nan", "", "/", "/dev/null", "mqtt://", "..", "ünï", "good.toml"]),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=12),
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("good.toml").write_text(GOOD)
        yield Path(name)


def status_of(*arguments: str) -> int:
    """The exit status; an exception that is no exit would end the command in a traceback."""
    out, err = io.StringIO(), io.StringIO()
    out.buffer = io.BytesIO()  # type: ignore[attr-defined]
    with contextlib.ExitStack() as held:
        held.enter_context(mock.patch.object(sys, "argv", ["gatewayd", *arguments]))
        held.enter_context(mock.patch.object(sys, "stdin", io.StringIO()))
        held.enter_context(contextlib.redirect_stdout(out))
        held.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        else:
            status = 0
    assert "Traceback" not in err.getvalue()
    assert status in EXIT_CODES, err.getvalue()
    return status


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_ends_in_words_without_a_daemon(command: list[str]) -> None:
    with folder():
        status_of(*command, "-c", "good.toml")
        status_of(*command, "-c", "missing.toml")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=4))
def test_arguments_are_taken_or_told(command: list[str], words: list[str]) -> None:
    with folder():
        status_of(*command, *words)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORDS, max_size=5))
def test_init_takes_its_options_or_tells(words: list[str]) -> None:
    with folder():
        status_of("init", "--yes", "--look", "0.1", "--broker", f"127.0.0.1:{PORT}", *words)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([["check"], ["status"], ["top", "--once"], ["route", "test", "ovens"]]), st.binary(max_size=200))
@example(["check"], b"\xff\xfe")
@example(["check"], b"[routes]\novens = 1")
@example(["status"], b"[web]\nport = 99999999999999999999")
def test_a_config_of_any_bytes_is_taken_or_told(command: list[str], content: bytes) -> None:
    with folder():
        Path("any.toml").write_bytes(content)
        status_of(*command, "-c", "any.toml")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text('"[]{}=.,# \n0aé\\', max_size=6))
def test_a_good_config_with_a_piece_changed_is_taken_or_told(at: int, n: int, put: str) -> None:
    with folder():
        Path("any.toml").write_text(GOOD[:at] + put + GOOD[at + n :])
        status_of("check", "-c", "any.toml")
