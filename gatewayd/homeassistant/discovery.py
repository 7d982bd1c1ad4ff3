"""The discovery message: one retained document that tells Home Assistant of everything there is. Pure.

Invariant: a component's topics and templates fit what is published there: live results as gatewayd.live sends them, the
health as `health.py` makes it, the status as the source does.

Source of the format: Home Assistant, MQTT integration, "device discovery payload" (2024.12 and later); the names in the
document are its abbreviations.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gatewayd import __version__
from gatewayd.config.schema import Config
from gatewayd.listening import command_topic

Component = dict[str, Any]

_NO_OBJECT_ID = re.compile(r"[^A-Za-z0-9_-]")
_DIAGNOSTIC = {"ent_cat": "diagnostic"}
_URL = "https://pypi.org/project/gatewayd/"

# What a result says in a word: its label, else a summary's first line. A state holds 255 characters at most.
_LABEL = (
    "{{{{ ({data}.label if {data}.label is defined else {data}.summary.headline if {data}.summary is mapping"
    " else {data}.summary | default('None')) | string | truncate(250, True) }}}}"
)
_SCORE = "{{{{ {data}.score | default('None') }}}}"
_ATTRIBUTES = "{{{{ {data} | tojson }}}}"


def discovery_topic(config: Config, gateway: str) -> str:
    """Where the document is published."""
    return f"{config.homeassistant.prefix}/device/{object_id(gateway)}/config"


def object_id(gateway: str) -> str:
    """The gateway's name as Home Assistant takes it: letters, digits, `_` and `-`."""
    return "gatewayd_" + _NO_OBJECT_ID.sub("_", gateway)


def health_topic(gateway: str) -> str:
    """Where the health is published, retained."""
    return f"gatewayd/{gateway}/health"


def announced_routes(config: Config) -> list[str]:
    """The routes with live results, at most `max_routes` of them."""
    live = [name for name, route in config.routes.items() if route.enabled and route.live]
    return live[: config.homeassistant.max_routes]


def discovery(config: Config, gateway: str, *, has_temperature: bool, removed: Mapping[str, str]) -> dict[str, Any]:
    """The document. `removed`: components of an earlier one that are no more, or became something else (id -> what it
    was): an entry with nothing but its platform takes a component out."""
    components = dict(_components(config, gateway, has_temperature=has_temperature))
    components |= {name: {"p": platform} for name, platform in removed.items()}
    wish = config.homeassistant
    return {
        "dev": {
            "ids": [f"gatewayd_{gateway}"],
            "name": wish.device_name or f"gatewayd {gateway}",
            "mf": "gatewayd",
            "mdl": "IoT gateway",
            "sw": __version__,
        },
        "o": {"name": "gatewayd", "sw": __version__, "url": _URL},
        "avty": [
            {
                "t": f"gatewayd/{gateway}/status",
                "val_tpl": "{{ value_json.state }}",
                "pl_avail": "online",
                "pl_not_avail": "offline",
            }
        ],
        "cmps": components,
    }


def platforms(document: Mapping[str, Any]) -> dict[str, str]:
    """The components of a document and what each of them is."""
    return {name: component["p"] for name, component in document["cmps"].items()}


def _components(config: Config, gateway: str, *, has_temperature: bool) -> Iterator[tuple[str, Component]]:
    routes = announced_routes(config)
    for name in routes:
        data = "value_json" if config.source.protocol == "5" else "value_json.data"  # else a CloudEvent around it
        yield from _results(gateway, name, data)
    yield from _health(config, gateway, has_temperature=has_temperature)
    if config.homeassistant.commands:
        yield from _commands(config, gateway, routes)


def _results(gateway: str, route: str, data: str) -> Iterator[tuple[str, Component]]:
    topic = f"gatewayd/{gateway}/results/{route}"
    yield _component(
        gateway,
        f"route_{route}_result",
        "sensor",
        f"{route} result",
        stat_t=topic,
        val_tpl=_LABEL.format(data=data),
        json_attr_t=topic,
        json_attr_tpl=_ATTRIBUTES.format(data=data),
        ic="mdi:tag-text-outline",
    )
    yield _component(
        gateway,
        f"route_{route}_score",
        "sensor",
        f"{route} score",
        stat_t=topic,
        val_tpl=_SCORE.format(data=data),
        stat_cla="measurement",
        ic="mdi:gauge",
    )


def _health(config: Config, gateway: str, *, has_temperature: bool) -> Iterator[tuple[str, Component]]:
    topic = health_topic(gateway)
    for sink in config.sinks:
        yield _component(
            gateway,
            f"sink_{sink}",
            "binary_sensor",
            f"{sink} reachable",
            stat_t=topic,
            # Nothing sent yet: neither.
            val_tpl=f"{{{{ {{True: 'ON', False: 'OFF'}}.get(value_json.sinks['{sink}'], 'None') }}}}",
            dev_cla="connectivity",
            **_DIAGNOSTIC,
        )
    for name, words, more in _FIGURES:
        yield _component(gateway, name, "sensor", words, stat_t=topic, val_tpl=_of(name), **more, **_DIAGNOSTIC)
    if has_temperature:
        more = {"dev_cla": "temperature", "unit_of_meas": "°C", "stat_cla": "measurement"}
        name = "temperature_c"
        yield _component(gateway, name, "sensor", "Temperature", stat_t=topic, val_tpl=_of(name), **more, **_DIAGNOSTIC)
    hot = "{{ 'ON' if value_json.hot else 'OFF' }}"
    yield _component(gateway, "hot", "binary_sensor", "Hot", stat_t=topic, val_tpl=hot, dev_cla="heat", **_DIAGNOSTIC)


def _of(name: str) -> str:
    return f"{{{{ value_json.{name} }}}}"


_FIGURES: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("pending", "Results not yet delivered", {"stat_cla": "measurement", "ic": "mdi:tray-full"}),
    (
        "oldest_age_s",
        "Age of the oldest of them",
        {"dev_cla": "duration", "unit_of_meas": "s", "stat_cla": "measurement"},
    ),
    ("journaled", "Messages in the journal", {"stat_cla": "measurement", "ic": "mdi:tray"}),
    ("dead_letters", "Dead letters", {"stat_cla": "measurement", "ic": "mdi:email-alert-outline"}),
    ("spool_percent", "Spool in use", {"unit_of_meas": "%", "stat_cla": "measurement", "ic": "mdi:database"}),
)


def _commands(config: Config, gateway: str, routes: Sequence[str]) -> Iterator[tuple[str, Component]]:
    prefix, topic = command_topic(gateway), health_topic(gateway)
    for name in routes:
        yield _component(
            gateway,
            f"route_{name}_live",
            "switch",
            f"{name} live results",
            stat_t=topic,
            val_tpl=f"{{{{ 'ON' if value_json.live['{name}'] else 'OFF' }}}}",
            cmd_t=f"{prefix}routes/{name}/live",
            ent_cat="config",
        )
    yield _component(
        gateway, "reload", "button", "Reload the config", cmd_t=f"{prefix}reload", ent_cat="config", ic="mdi:reload"
    )
    if any(route.window is not None for route in config.routes.values() if route.enabled):
        words = "Close windows now"
        yield _component(gateway, "close_windows", "button", words, cmd_t=f"{prefix}close_windows", ic="mdi:archive")


def _component(gateway: str, name: str, platform: str, words: str, **more: Any) -> tuple[str, Component]:
    return name, {"p": platform, "uniq_id": f"gatewayd_{gateway}_{name}", "name": words, **more}
