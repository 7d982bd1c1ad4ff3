"""observability/ and compose.yaml: every metric they name is there, every file and port they name is what it says."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.config import Config
from gatewayd.config.load import check
from gatewayd.instruments import INSTRUMENTS
from tests.sim.prometheus import find

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "observability"
DASHBOARD = FOLDER / "grafana/dashboards/gatewayd.json"
RULES = FOLDER / "gatewayd.rules.yml"
NAME = re.compile(r"\b(?:gatewayd|messaging|gen_ai|hw)_[a-z0-9_]+")
needs_promtool = pytest.mark.skipif(
    find("promtool") is None, reason="promtool is not installed: apt install prometheus"
)


def expressions(value: Any) -> Iterator[str]:
    """Every PromQL expression of the dashboard."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for each in value.values():
            yield from expressions(each)
    elif isinstance(value, list):
        for each in value:
            yield from expressions(each)


def known_names() -> set[str]:
    names = set()
    for each in INSTRUMENTS.values():
        name = each.prometheus_name
        names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if each.kind == "histogram" else {name}
    return names


def rule_expressions() -> list[str]:
    return re.findall(r"expr: >-\n\s+(.*)", RULES.read_text())


def in_reference() -> set[str]:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    return set(re.findall(r'<a id="([^"]+)">', page))


def without_labels(expression: str) -> str:
    """The expression without `by (…)` and `{…}`: what is left of words are functions and metrics."""
    return re.sub(r"\{[^}]*\}|by \([^)]*\)", " ", expression)


@pytest.mark.parametrize("name", ["dashboard", "rules"])
def test_every_metric_of_dashboard_and_rules_is_one_of_ours(name: str) -> None:
    found = rule_expressions() if name == "rules" else list(expressions(json.loads(DASHBOARD.read_text())))
    used = {metric for expression in found for metric in NAME.findall(without_labels(expression))}

    assert len(found) > 15
    assert used - known_names() == set()
    assert {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in used if metric not in in_reference()} <= (
        in_reference()
    )


def test_every_label_that_is_grouped_by_is_an_attribute_of_the_metric() -> None:
    by_name = {each.prometheus_name: each for each in INSTRUMENTS.values()}
    wrong = []
    for expression in [*expressions(json.loads(DASHBOARD.read_text())), *rule_expressions()]:
        grouped = {label.strip() for each in re.findall(r"by \(([^)]*)\)", expression) for label in each.split(",")}
        names = {re.sub(r"_(bucket|sum|count)$", "", each) for each in NAME.findall(without_labels(expression))}
        for name in names & by_name.keys():
            has = {label.replace(".", "_") for label in (*by_name[name].attributes, *by_name[name].fixed)}
            wrong += [f"{label} of {name}" for label in grouped - has - {"instance", "job", "le"}]

    assert wrong == []


def test_alerts_say_what_to_do() -> None:
    text = RULES.read_text()
    alerts = re.findall(r"alert: (\w+)", text)

    assert len(alerts) == len(set(alerts)) == text.count("summary: ") == text.count("description: ")
    assert {"GatewaydDown", "GatewaydBrokerAway", "GatewaydCloudAway", "GatewaydLosing"} <= set(alerts)


@needs_promtool
def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    for command in (
        ["check", "rules", "gatewayd.rules.yml"],
        ["test", "rules", "gatewayd.rules.test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    cells: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in cells, f"{panel['title']} lies over {cells[x, y]}"
                assert x < 24
                cells[x, y] = panel["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_compose_names_files_that_are_there_and_ports_that_are_the_defaults() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]

    assert set(services) == {"broker", "gatewayd", "prometheus", "grafana"}
    for name, service in services.items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            there = (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"]
            assert there, f"{name}: {volume}"
    config = Config()
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == [f"127.0.0.1:{config.web.port}"]
    assert prometheus["scrape_configs"][0]["job_name"] == "gatewayd"
    assert f"{config.source.port}:{config.source.port}" in services["broker"]["ports"]
    provider = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/gatewayd.yml").read_text())
    assert any(provider["providers"][0]["options"]["path"] in volume for volume in services["grafana"]["volumes"])
    # Nothing but the devices' port is reachable from outside of the machine.
    published = [str(port) for service in services.values() for port in service.get("ports", [])]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["1883:1883"]


def test_the_container_is_what_the_package_is() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last = text.split("FROM ")[-1]

    assert f"EXPOSE {Config().web.port}" in last
    assert f"127.0.0.1:{Config().web.port}/healthz" in last
    assert {"USER gatewayd", "STOPSIGNAL SIGTERM"} <= set(last.splitlines())
    assert not re.search(r"build-essential|gcc|cmake", text)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert source in sent, f".dockerignore keeps {source} back"


def test_the_config_of_the_package_has_nothing_wrong_with_it() -> None:
    assert check(ROOT / "debian/gatewayd.toml") == []
