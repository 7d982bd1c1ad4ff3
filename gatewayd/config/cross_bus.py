"""What no single key can say about Home Assistant and Sparkplug. Pure."""

from collections.abc import Iterator

from gatewayd.config.schema import Config, Route
from gatewayd.config.walk import Finding
from gatewayd.routing import validate_filter
from gatewayd.subscribing import overlap


def check_bus(config: Config) -> Iterator[Finding]:
    """Findings about `[homeassistant]` beside `[source]`, and about routes of Sparkplug payloads."""
    for name, route in config.routes.items():
        if route.payload.format == "sparkplug":
            yield from _sparkplug(name, route)
    wish, source = config.homeassistant, config.source
    if not wish.enabled:
        return
    if not source.status_topic:
        problem = "Home Assistant could not tell whether this gateway is there: `source.status_topic` is off"
        yield Finding(path=("homeassistant", "enabled"), problem=problem, allowed="source.status_topic = true")
    if source.share_group is not None:
        problem = (
            "one gateway of the share group alone hears that Home Assistant has started: the others rely on what the "
            "broker keeps"
        )
        yield Finding(path=("homeassistant", "birth_topic"), problem=problem, is_warning=True)
    if wish.commands:
        problem = (
            "whoever may publish to gatewayd/<gateway>/command/ commands this gateway: see the broker's access rules"
        )
        yield Finding(path=("homeassistant", "commands"), problem=problem, is_warning=True)


def _sparkplug(name: str, route: Route) -> Iterator[Finding]:
    for index, topic in enumerate(route.topics):
        if validate_filter(topic) is not None:
            continue
        has_births = any(overlap(topic, f"spBv1.0/{births}") for births in ("+/NBIRTH/+", "+/DBIRTH/+/+"))
        if has_births:
            continue
        problem = f"`{topic}` leaves out the births, which say what each metric is called and of what type it is"
        allowed = 'a filter such as "spBv1.0/<group>/+/<edge node>/#"'
        yield Finding(path=("routes", name, "topics", index), problem=problem, allowed=allowed, is_warning=True)
