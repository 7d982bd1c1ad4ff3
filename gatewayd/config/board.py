"""Config of the board: what is read of its sensors, and what gives way while it is hot."""

# ruff: noqa: E501 - a description is one sentence on one line, so that it reads as prose

from typing import Annotated

from msgspec import Meta, field

from gatewayd.config.links import Section


class Board(Section, frozen=True):
    """The board's temperature, throttling and power, read where it offers them; and what gives way while it is hot."""

    look_s: Annotated[
        float, Meta(ge=0, le=3600, description="How often the sensors are read, in seconds. 0: never.")
    ] = 5.0
    root: Annotated[
        str,
        Meta(
            description="Folder that has `sys` and `proc`: another than / in a container that is given the host's, e.g. /host."
        ),
    ] = "/"
    zones: Annotated[
        list[str],
        Meta(
            description='Types of the thermal zones, or names of hwmon chips, that say whether it is hot, e.g. ["cpu-thermal"]; `gatewayd doctor` lists them. Empty: every thermal zone that is not known for dummy values, or hwmon where there is no zone.'
        ),
    ] = field(default_factory=list)
    hot_c: Annotated[
        Annotated[float, Meta(ge=20, le=150)] | None,
        Meta(
            description="From this temperature on the board is hot, in degrees Celsius. Unset: each zone's own passive trip point, else 5 below its critical one; a sensor without either is only reported."
        ),
    ] = None
    cool_c: Annotated[
        Annotated[float, Meta(ge=0, le=150)] | None,
        Meta(description="It is hot until it is at this temperature again, in degrees Celsius. Unset: 5 below hot."),
    ] = None
    shed_below_priority: Annotated[
        int,
        Meta(
            ge=0,
            le=9,
            description="While the board is hot or throttled, routes of a lower priority than this do without their language model: summaries quote their window, provisionally, and what cannot do without waits. 0: nothing gives way.",
        ),
    ] = 0
