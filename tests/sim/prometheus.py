"""A real Prometheus from Debian, scraping a real daemon: rules as they are shipped, with shorter waits."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.sim.gateway import wait_until
from tests.sim.mosquitto import free_port

_START_S = 60.0


def find(tool: str) -> str | None:
    """Path of `prometheus` or `promtool`, or None."""
    return shutil.which(tool)


class Prometheus:
    """One server with a folder of its own, that looks at `target` every second.

    Args:
        folder: config and data.
        target: host:port of what is scraped, as job `gatewayd`.
        rules: text of a rules file.
    """

    def __init__(self, folder: Path, target: str, rules: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._address = f"127.0.0.1:{port}"
        (folder / "rules.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            "rule_files: [rules.yml]\n"
            "scrape_configs:\n"
            f'  - {{job_name: gatewayd, static_configs: [{{targets: ["{target}"]}}]}}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it is ready."""
        binary = find("prometheus")
        assert binary is not None
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={self._folder}/prometheus.yml",
                    f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready, _START_S, lambda: (self._folder / "prometheus.log").read_text()[-2000:])

    def end(self) -> None:
        """It is gone after this."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def names(self) -> set[str]:
        """Every metric name it has seen."""
        return set(self._get("label/__name__/values"))

    def query(self, expression: str) -> list[Any]:
        """What an expression gives now: its samples. Raises ValueError where Prometheus does not take it."""
        try:
            answer = self._get(f"query?{urllib.parse.urlencode({'query': expression})}")
        except urllib.error.HTTPError as error:
            raise ValueError(f"{expression}: {error.read().decode(errors='replace')}") from error
        found: list[Any] = answer["result"]
        return found

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}", timeout=20) as response:
            return json.load(response)["data"]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
