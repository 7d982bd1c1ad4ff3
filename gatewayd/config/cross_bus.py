"""What no single key can say about Home Assistant. Pure."""

from collections.abc import Iterator

from gatewayd.config.schema import Config
from gatewayd.config.walk import Finding


def check_bus(config: Config) -> Iterator[Finding]:
    """Findings about `[homeassistant]` beside `[source]`."""
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
