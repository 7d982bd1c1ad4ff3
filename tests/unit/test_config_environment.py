"""gatewayd.config.environment and .secrets: what comes from outside the config, and never shows."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatewayd.config import Config, gateway_id, read_environment, read_secret, resolve_paths
from gatewayd.config.environment import spare_cores
from gatewayd.config.load import examine_text
from gatewayd.config.schema import Secret
from gatewayd.errors import ConfigError


def test_a_secret_in_the_credentials_folder_wins_over_one_beside_the_config(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text("from systemd\n")
    (tmp_path / "token").write_text("from beside\n")
    environment = read_environment({"CREDENTIALS_DIRECTORY": str(credentials)})

    given = read_secret(Secret(file="token"), key="k", beside=tmp_path, environment=environment)
    beside = read_secret(Secret(file="token"), key="k", beside=tmp_path, environment=read_environment({}))

    assert (given, beside) == ("from systemd", "from beside")


def test_a_secret_comes_from_the_environment_where_the_config_says_so() -> None:
    environment = read_environment({"TOKEN": "t"})

    assert read_secret(Secret(env="TOKEN"), key="k", beside=Path(), environment=environment) == "t"


@pytest.mark.parametrize(
    "secret", [Secret(env="NOT_SET"), Secret(file="none"), Secret(file="empty"), Secret(file="binary")]
)
def test_a_secret_that_cannot_be_had_names_its_key_and_shows_nothing(secret: Secret, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")

    with pytest.raises(ConfigError) as raised:
        read_secret(secret, key="sinks.cloud.token", beside=tmp_path, environment=read_environment({}))

    assert raised.value.key.startswith("sinks.cloud.token.")
    assert "hunter2" not in repr(raised.value)
    assert raised.value.__cause__ is None


def test_a_secret_that_everybody_may_read_is_warned_about_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "token").chmod(0o644)

    with capture_logs() as logs:
        read_secret(Secret(file="token"), key="k", beside=tmp_path, environment=read_environment({}))

    assert [line["log_level"] for line in logs] == ["warning"]
    assert "hunter2" not in str(logs)


def test_the_state_folder_follows_systemd_then_xdg_then_home(tmp_path: Path) -> None:
    config = Config()
    everything = {"STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x", "HOME": "/h"}

    found = []
    for missing in ((), ("STATE_DIRECTORY",), ("STATE_DIRECTORY", "XDG_STATE_HOME")):
        variables = {name: value for name, value in everything.items() if name not in missing}
        found.append(str(resolve_paths(config, read_environment(variables), tmp_path / "config.toml").state_dir))

    assert found == ["/s", "/x/gatewayd", "/h/.local/state/gatewayd"]


def test_without_any_folder_for_the_spool_the_daemon_does_not_start() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.state_dir"):
        resolve_paths(Config(), read_environment({}), "config.toml")


def test_the_environment_does_not_show_its_variables() -> None:
    environment = read_environment({"TOKEN": "hunter2", "WATCHDOG_USEC": "abc", "WATCHDOG_PID": "12"})

    assert "hunter2" not in repr(environment)
    assert (environment.watchdog_usec, environment.watchdog_pid) == (None, 12)


def test_the_gateway_is_named_after_the_host_unless_it_has_a_name() -> None:
    _, problems = examine_text(f'[gateway]\nid = "{gateway_id(Config())}"\n', "c")

    assert problems == []


def test_products_of_numpy_run_on_one_thread_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")  # remembered, so that it is put back
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    spare_cores()
    first = os.environ["OPENBLAS_NUM_THREADS"]
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    spare_cores()

    assert (first, os.environ["OPENBLAS_NUM_THREADS"]) == ("1", "3")
