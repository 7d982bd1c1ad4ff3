"""What is known of an edge node: its metrics' names and types, and where it is in its sequence. Pure.

A birth tells name, alias and type of each metric; what follows may name a metric by its alias alone, and leaves its
type out. `step` takes what was known before a message and gives what is known after it: no state is changed in place.
Source: the Eclipse Sparkplug specification 3.0.0, sections 4 (topics), 5 (births, deaths, sequence), 6.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gatewayd.sparkplug.wire import BD_SEQ

PREFIX = "spBv1.0"
DATA_TYPES = frozenset({"NBIRTH", "DBIRTH", "NDATA", "DDATA"})  # of messages; the others hold nothing for a handler
_SEQ = 256

Known = tuple[bytes, int]  # a metric's name and data type


@dataclass(frozen=True, slots=True)
class Topic:
    """`spBv1.0/<group>/<type>/<edge node>[/<device>]`."""

    group: str
    type: str
    edge_node: str
    device: str  # "" for a message of the edge node itself

    @property
    def node(self) -> tuple[str, str]:
        """What tells edge nodes apart."""
        return self.group, self.edge_node


def read_topic(topic: str) -> Topic | None:
    """None for what is no topic of an edge node."""
    levels = topic.split("/")
    if levels[0] != PREFIX or not 4 <= len(levels) <= 5 or not all(levels[1:]):
        return None
    return Topic(levels[1], levels[2], levels[3], levels[4] if len(levels) == 5 else "")


def command_topic(node: tuple[str, str]) -> str:
    """Where an edge node takes commands."""
    return f"{PREFIX}/{node[0]}/NCMD/{node[1]}"


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one birth."""

    by_name: Mapping[bytes, int]  # to their data types
    by_alias: Mapping[int, Known]


@dataclass(frozen=True, slots=True)
class Node:
    """What is known of an edge node that is alive."""

    bd_seq: int | None  # of the birth; None: its birth was not seen, a device's was
    seq: int | None  # of the last message; None: not known
    births: Mapping[str, Metrics] = field(default_factory=dict)  # by device, "" is the edge node itself
    is_too_large: bool = False  # more metrics than are kept

    @property
    def n_metrics(self) -> int:
        """How many names are kept."""
        return sum(len(metrics.by_name) for metrics in self.births.values())


@dataclass(frozen=True, slots=True)
class Step:
    """What comes of one message."""

    node: Node | None  # known now; None: dead, or never born
    missed: int = 0  # messages that are missing before this one, by the sequence
    rebirth: str = ""  # why the births are needed again: "no_birth", "alias", "gap"; "" when they are not


def step(node: Node | None, topic: Topic, payload: Any, *, sees_all: bool, max_metrics: int) -> Step:
    """One message on. Fills names and types into the `payload` of data. `sees_all`: the route gets every message of the
    edge node, so its sequence can be checked."""
    if topic.type == "NBIRTH":
        births = {"": _metrics(payload)}
        return Step(_bounded(Node(_bd_seq(payload), payload.seq, births), max_metrics))
    if topic.type == "NDEATH":
        is_older = node is not None and node.bd_seq is not None and _bd_seq(payload) != node.bd_seq
        return Step(node if is_older else None)  # the Last Will of a connection before this one comes late
    if topic.type not in ("DBIRTH", "DDEATH", "NDATA", "DDATA"):
        return Step(node)
    if node is None and topic.type in ("DBIRTH", "DDEATH"):
        node = Node(None, None)
    if node is None:
        return Step(None, rebirth="no_birth")
    missed, seq = _sequence(node, payload) if sees_all else (0, None)
    node = replace(node, seq=seq)
    rebirth = "gap" if missed else ""
    if topic.type == "DBIRTH":
        node = replace(node, births={**node.births, topic.device: _metrics(payload)})
        return Step(
            _bounded(node, max_metrics), missed, rebirth or ("no_birth" if sees_all and node.bd_seq is None else "")
        )
    if topic.type == "DDEATH":
        births = {device: metrics for device, metrics in node.births.items() if device != topic.device}
        return Step(replace(node, births=births), missed, rebirth)
    return Step(node, missed, _fill(node, topic.device, payload) or rebirth)


def _bounded(node: Node, max_metrics: int) -> Node:
    return Node(node.bd_seq, node.seq, {}, is_too_large=True) if node.n_metrics > max_metrics else node


def _metrics(payload: Any) -> Metrics:
    named = [metric for metric in payload.metrics if metric.name]
    return Metrics(
        {metric.name: metric.datatype for metric in named},
        {metric.alias: (metric.name, metric.datatype) for metric in named if metric.HasField("alias")},
    )


def _bd_seq(payload: Any) -> int | None:
    for metric in payload.metrics:
        if metric.name == BD_SEQ:
            return int(metric.long_value or metric.int_value)
    return None


def _sequence(node: Node, payload: Any) -> tuple[int, int | None]:
    """How many messages are missing, and the number of this one."""
    if not payload.HasField("seq"):
        return 0, node.seq
    seq = payload.seq % _SEQ
    return (0 if node.seq is None else (seq - node.seq - 1) % _SEQ), seq


def _fill(node: Node, device: str, payload: Any) -> str:
    """Names and types into the metrics that come without; why that could not be done for all of them."""
    metrics = node.births.get(device)
    if metrics is None:
        return "" if node.is_too_large else "no_birth"
    is_whole = True
    for metric in payload.metrics:
        if not metric.name:
            known = metrics.by_alias.get(metric.alias)
            if known is None:
                is_whole = False
                continue
            metric.name = known[0]
            metric.datatype = metric.datatype or known[1]
        elif not metric.datatype:
            metric.datatype = metrics.by_name.get(metric.name, 0)
            is_whole = is_whole and metric.datatype != 0
    return "" if is_whole else "alias"
