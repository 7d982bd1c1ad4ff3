"""A reload takes over what it can, says what it cannot, and when something is wrong it changes nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatewayd.api import ModelError
from gatewayd.config.load import ConfigErrors
from gatewayd.errors import ConfigError
from gatewayd.reload import changes, is_reloadable, reload, takeable
from tests.sim.clock import settle
from tests.sim.handlers import Scripted, echo
from tests.sim.stages import Rig, stages, until

TEXT = """
[gateway]
id = "gw"
drain_s = 2.0
[sinks.cloud]
type = "http"
url = "http://127.0.0.1:1/"
[routes.r]
topics = ["t/#"]
handler = "threshold"
sinks = ["cloud"]
live = false
mode = "direct"
options = { rules = [{ label = "x", above = 0.0 }] }
"""


class Reloaded:
    """A running rig whose file can be changed; `new` is the handler that a reload makes."""

    def __init__(self, rig: Rig, path: Path, old: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rig = rig
        self.old = old
        self.new = Scripted(echo)
        self._path = path
        self._text = TEXT
        monkeypatch.setattr("gatewayd.reload.build_handlers", lambda *_: {"r": self.new})
        monkeypatch.setattr("gatewayd.reload.set_up", lambda *_: None)

    async def change(self, old: str, new: str) -> None:
        assert old in self._text
        self._text = self._text.replace(old, new)
        self._path.write_text(self._text)
        await reload(self.rig.parts, self._path)

    @property
    def handler(self) -> object:
        return self.rig.part().context.runner.handler


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reloaded]:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    old = Scripted(echo)
    async with stages(tmp_path, {"r": old}) as rig:
        await until(lambda: rig.part().state == "running")
        yield Reloaded(rig, path, old, monkeypatch)


async def test_new_options_make_a_new_handler_and_the_old_one_is_stopped(running: Reloaded) -> None:
    await running.change("above = 0.0", "above = 1.0")

    assert running.handler is running.new
    assert running.new.is_started
    assert running.old.is_stopped
    running.rig.send(1)
    await running.rig.acked(1)
    assert running.new.batches == [[1]]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("include_input = true", "include_input", True),
        ("max_attempts = 7", "max_attempts", 7),
        ("retry_s = 2.5", "retry_s", 2.5),
    ],
)
async def test_other_reloadable_keys_are_taken_over_by_the_handler_that_runs(
    running: Reloaded, line: str, name: str, value: object
) -> None:
    await running.change("live = false\n", f"live = false\n{line}\n")

    assert getattr(running.rig.part().context.config, name) == value
    assert getattr(running.rig.parts.running_config.routes["r"], name) == value
    assert running.handler is running.old


async def test_new_batch_limits_hold_for_the_next_batch(running: Reloaded) -> None:
    await running.change("live = false\n", "live = false\nbatch = { max_messages = 1 }\n")
    running.rig.send(0)
    await running.rig.acked(1)  # the batch that was being waited for still had the old limits

    running.rig.send(1, 2, 3)
    await running.rig.acked(4)

    assert running.old.batches[-3:] == [[1], [2], [3]]


async def test_a_handler_that_does_not_start_leaves_the_old_one_and_the_next_reload_tries_again(
    running: Reloaded,
) -> None:
    running.new.starts = [KeyError("a bug of the handler")]

    await running.change("above = 0.0", "above = 1.0")

    assert running.handler is running.old
    assert not running.old.is_stopped
    running.rig.send(1)
    await running.rig.acked(1)
    await running.change("above = 1.0", "above = 1.0")
    assert running.handler is running.new


async def test_an_old_handler_whose_stop_raises_does_not_hold_up_the_new_one(running: Reloaded) -> None:
    def stop() -> None:
        raise OSError("a bug of the handler")

    running.old.stop = stop  # type: ignore[method-assign]

    await running.change("above = 0.0", "above = 1.0")

    assert running.handler is running.new


@pytest.mark.parametrize("wrong", ["above = 'x'", "abov = 1.0", "above = 0.0, below = 1.0"])
async def test_a_config_that_does_not_pass_the_check_changes_nothing(running: Reloaded, wrong: str) -> None:
    before = running.rig.parts.running_config

    with pytest.raises(ConfigErrors):
        await running.change("above = 0.0", wrong)

    assert running.rig.parts.running_config is before
    assert running.handler is running.old


async def test_handlers_that_cannot_be_built_change_nothing(running: Reloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("handlers.paths", "gone meanwhile")

    monkeypatch.setattr("gatewayd.reload.build_handlers", fail)
    before = running.rig.parts.running_config

    with pytest.raises(ConfigError):
        await running.change("live = false\n", "live = false\nmax_attempts = 9\n")

    assert running.rig.parts.running_config is before


async def test_options_for_another_handler_wait_for_the_restart_with_it(running: Reloaded) -> None:
    other = TEXT.replace('"threshold"', '"summarize_text"').replace('rules = [{ label = "x", above = 0.0 }]', "")

    await running.change(TEXT, other)

    assert running.handler is running.old
    assert running.rig.parts.running_config.routes["r"].options == {"rules": [{"label": "x", "above": 0.0}]}


async def test_a_route_that_is_switched_off_runs_until_the_restart(running: Reloaded) -> None:
    await running.change("live = false\n", "live = false\nenabled = false\nmax_attempts = 9\n")

    assert running.rig.part().context.config.max_attempts == 3
    assert running.rig.parts.running_config.routes["r"].enabled


async def test_a_route_that_is_removed_runs_until_the_restart(running: Reloaded) -> None:
    await running.change("[routes.r]", "[routes.other]")

    assert list(running.rig.parts.running_config.routes) == ["r"]
    assert running.handler is running.old


async def test_a_route_that_waits_for_its_model_gets_its_new_handler_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    old = Scripted(echo)
    old.starts = [ModelError("not there")] * 1000
    monkeypatch.setattr("gatewayd.daemon.full_jitter_s", lambda *_, **__: -1.0)
    async with stages(tmp_path, {"r": old}) as rig:
        await until(lambda: rig.part().state == "waiting for its model")
        running = Reloaded(rig, path, old, monkeypatch)

        await running.change("above = 0.0", "above = 1.0")
        rig.send(1)
        await rig.settled(received=1, handled=1)
        await settle()

        assert running.new.n_starts == 1
        assert running.new.batches == [[1]]


def test_changes_are_named_to_the_last_key() -> None:
    old = {"a": {"b": 1, "c": {"d": 1}}, "gone": 1}
    new = {"a": {"b": 2, "c": {"d": 1}}, "came": {"x": 1}}

    assert list(changes(old, new)) == ["a.b", "came", "gone"]


@pytest.mark.parametrize("key", ["log.level", "routes.r.options.rules", "routes.r.batch.max_messages"])
def test_what_is_reloadable(key: str) -> None:
    assert is_reloadable(key)


@pytest.mark.parametrize("key", ["log.format", "routes.r.topics", "routes.r", "sinks.cloud.url", "spool.max_bytes"])
def test_what_needs_a_restart(key: str) -> None:
    assert not is_reloadable(key)


def test_a_route_with_another_handler_is_not_taken_and_its_namesakes_are() -> None:
    changed = ["routes.r.handler", "routes.r.options.a", "routes.r2.options.a", "log.level"]

    assert takeable(changed) == ["routes.r2.options.a", "log.level"]
