"""At the door of a route with Sparkplug payloads: names are filled in here, in order of arrival, before the journal.

So what the journal keeps says by itself what it is: a restart loses what is known of the edge nodes, and no message
that was acknowledged. Memory is bounded by `payload.sparkplug`: the edge node that was silent for longest is forgotten.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from gatewayd.config.routes import Payload, Sparkplug
from gatewayd.errors import RejectedError
from gatewayd.ports import RawMessage
from gatewayd.sparkplug.nodes import DATA_TYPES, PREFIX, Node, Step, Topic, command_topic, read_topic, step
from gatewayd.sparkplug.wire import parse, rebirth_command
from gatewayd.subscribing import covers

log = structlog.get_logger(__name__)

OnEvent = Callable[[str, int], None]  # what happened, and how often


@dataclass(slots=True)
class _Standing:
    """One edge node."""

    sees_all: bool
    node: Node | None = None
    asked_s: float | None = None  # when its births were asked for last


class Door:
    """What one route knows of the edge nodes it hears.

    Args:
        payload: the route's `payload` table.
        topics: the route's filters.
        on_event: told of "births", "deaths", "gaps", "missed" (messages) and "rebirths" (asked for).
    """

    def __init__(self, payload: Payload, topics: Sequence[str], on_event: OnEvent) -> None:
        self._limits: Sparkplug = payload.sparkplug
        self._max_bytes = payload.max_bytes
        self._topics = topics
        self._on_event = on_event
        self._standings: dict[tuple[str, str], _Standing] = {}

    def admit(self, raws: Sequence[RawMessage], now_s: float) -> tuple[list[RawMessage], list[tuple[str, bytes]]]:
        """The messages that hold something for a handler, names filled in; and commands to publish (topic, payload).

        `now_s`: monotonic. What is no Sparkplug payload stays as it is: the decoder says what is wrong with it.
        """
        admitted: list[RawMessage] = []
        commands: list[tuple[str, bytes]] = []
        for raw in raws:
            topic = read_topic(raw.topic)
            if topic is None or topic.type not in DATA_TYPES:
                is_ours = raw.topic == PREFIX or raw.topic.startswith(f"{PREFIX}/")
                if not is_ours:
                    admitted.append(raw)  # a filter of the route that is not about Sparkplug
            if topic is None:
                continue
            admitted_raw, command = self._one(raw, topic, now_s)
            commands += [command] if command else []
            if topic.type in DATA_TYPES:
                admitted.append(admitted_raw)
        return admitted, commands

    def _one(self, raw: RawMessage, topic: Topic, now_s: float) -> tuple[RawMessage, tuple[str, bytes] | None]:
        if len(raw.payload) > self._max_bytes:
            return raw, None
        try:
            payload = parse(raw.payload)
        except RejectedError:
            return raw, None
        standing = self._standing(topic.node)
        taken = step(
            standing.node,
            topic,
            payload,
            sees_all=standing.sees_all and not raw.dup,  # one that comes again is not in its place
            max_metrics=self._limits.max_metrics,
        )
        self._tell(topic, standing.node, taken)
        standing.node = taken.node
        command = self._ask(topic.node, standing, taken.rebirth, raw.time, now_s) if taken.rebirth else None
        if topic.type in ("NDATA", "DDATA"):
            raw = msgspec.structs.replace(raw, payload=payload.SerializeToString())
        return raw, command

    def _standing(self, node: tuple[str, str]) -> _Standing:
        standing = self._standings.pop(node, None)
        if standing is None:
            everything = f"{PREFIX}/{node[0]}/+/{node[1]}/#"
            standing = _Standing(any(covers(topic, everything) for topic in self._topics))
            if len(self._standings) >= self._limits.max_edge_nodes:
                self._standings.pop(next(iter(self._standings)))
                self._on_event("forgotten", 1)
        self._standings[node] = standing  # at the end: heard last
        return standing

    def _tell(self, topic: Topic, before: Node | None, taken: Step) -> None:
        if topic.type in ("NBIRTH", "DBIRTH"):
            self._on_event("births", 1)
        elif topic.type == "DDEATH" or (before is not None and taken.node is None):
            self._on_event("deaths", 1)
        if taken.missed:
            self._on_event("gaps", 1)
            self._on_event("missed", taken.missed)
        if taken.node is not None and taken.node.is_too_large and not (before and before.is_too_large):
            log.error(
                "an edge node has more metrics than are kept, its data become dead letters",
                edge_node="/".join(topic.node),
                hint="raise payload.sparkplug.max_metrics",
            )

    def _ask(
        self, node: tuple[str, str], standing: _Standing, why: str, time: float, now_s: float
    ) -> tuple[str, bytes] | None:
        """The command that asks for the births, unless they were asked for just now."""
        wish = self._limits
        if not wish.rebirth or (standing.asked_s is not None and now_s - standing.asked_s < wish.rebirth_s):
            return None
        standing.asked_s = now_s
        self._on_event("rebirths", 1)
        log.info("asked an edge node for its births", edge_node="/".join(node), why=why)
        return command_topic(node), rebirth_command(round(time * 1000))
