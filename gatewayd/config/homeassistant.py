"""Config of Home Assistant: what is announced to it, and whether it may command."""

# ruff: noqa: E501 - a description is one sentence on one line, so that it reads as prose

from typing import Annotated

from msgspec import Meta

from gatewayd.config.links import Section


class HomeAssistant(Section, frozen=True):
    """MQTT discovery for Home Assistant: this gateway as one device with its routes' results and its health."""

    enabled: Annotated[
        bool,
        Meta(
            description="Announce this gateway. Switched off again, it is taken out of Home Assistant at the next start."
        ),
    ] = False
    prefix: Annotated[
        str,
        Meta(pattern=r"^[^+#\x00]+\Z", description="Discovery prefix, as in Home Assistant's own MQTT settings."),
    ] = "homeassistant"
    birth_topic: Annotated[
        str,
        Meta(
            pattern=r"^[^+#\x00]+\Z",
            description="Where Home Assistant says `online` when it has started; everything is announced again then.",
        ),
    ] = "homeassistant/status"
    birth_jitter_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Each gateway waits a random part of this, in seconds, before it answers that: not all at once.",
        ),
    ] = 10.0
    device_name: Annotated[str, Meta(description="What the device is called. Empty: `gatewayd <gateway>`.")] = ""
    health_s: Annotated[
        float, Meta(gt=0, le=86400, description="How often the health is published when it changed, in seconds.")
    ] = 30.0
    max_routes: Annotated[
        int,
        Meta(
            ge=0,
            le=500,
            description="Routes that are announced, in order of the config; the others are left out (logged).",
        ),
    ] = 50
    commands: Annotated[
        bool,
        Meta(
            description="Listen to `gatewayd/<gateway>/command/#`: switches for live results, buttons that reload the config and close windows now. Whoever may publish on the bus may then do these things."
        ),
    ] = False
