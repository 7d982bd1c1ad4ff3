"""Figures 1, 2 and 5: messages a second, live and durable, beside loops that only receive."""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed import nodered
from benchmarks.speed.rig import (
    N_DEVICES,
    WINDOW,
    Feed,
    Listener,
    bare,
    broker,
    broker_limit,
    cpu_s,
    gateway,
    metric,
    series_route,
    wait_for,
)
from benchmarks.speed.rows import Row, rounds
from tests.sim.gateway import Gateway

_N_LIVE = 100_000
_N_DURABLE = 50_000  # fewer than Mosquitto 2.0.11 can leave unacknowledged
_HANDLED = "gatewayd_messages_handled_total"


def live(folder: Path) -> Iterator[Row]:
    """1: QoS 0 JSON -> ONNX -> live result, counted by a subscriber."""
    with broker(folder / "broker") as one:
        feed = Feed(folder, one.port, qos=0, n_messages=_N_LIVE)
        with gateway(folder / "gateway", one.port, series_route(folder, qos=0, live=True, stored=False)) as subject:
            Feed(folder, one.port, qos=0, n_messages=N_DEVICES * WINDOW).send()  # every device has its window full
            time.sleep(0.5)
            spent_s = cpu_s(subject)
            ours, bare_loop, slow_loop, limit = rounds(
                [
                    lambda: _answered(one.port, feed, "gatewayd/+/results/#"),
                    lambda: bare("mqttium", one.port, 0, feed),
                    lambda: bare("aiomqtt", one.port, 0, feed),
                    lambda: broker_limit(one.port, 0, feed),
                ]
            )
            n_handled = metric(subject, _HANDLED)
            spent_s = cpu_s(subject) - spent_s
    what = "QoS 0 JSON in, ONNX over the last samples, live result out"
    row = {"id": "1", "what": what, "value": ours.median, "unit": "msg/s", "spread": ours.spread}
    yield Row(**row, reach=">= 35,000 msg/s on the reference box", ok=ours.median >= 35_000)
    for name, its in (("bare MQTTium loop", bare_loop), ("bare aiomqtt loop", slow_loop), ("broker's limit", limit)):
        yield Row(**{**row, "id": "1b"}, baseline=f"{name}, {its.median:,.0f} msg/s", ratio=ours.over(its))
    yield Row(id="1c", what="CPU of figure 1", value=spent_s / n_handled * 1e6, unit="µs/msg")
    yield from _beside_node_red(folder)


def _beside_node_red(folder: Path) -> Iterator[Row]:
    script = nodered.installed(Path.home() / ".cache" / "gatewayd" / "bench-node-red")
    what = "figure 1 beside Node-RED's forwarding without inference"
    if script is None:
        yield Row(id="1a", what=f"{what}: not measured, npm cannot install it here", value=0, unit="msg/s")
        return
    with broker(folder / "broker-nr") as one:
        feed = Feed(folder, one.port, qos=0, n_messages=_N_LIVE)
        text = series_route(folder, qos=0, live=True, stored=False)

        def ours() -> float:
            with gateway(folder / "gateway-nr", one.port, text):
                Feed(folder, one.port, qos=0, n_messages=N_DEVICES * WINDOW).send()
                return _answered(one.port, feed, "gatewayd/+/results/#")

        def theirs() -> float:
            with nodered.running(script, folder / "node-red", one.port):
                return _answered(one.port, feed, "nr/out")

        mine, its = rounds([ours, theirs])
    ratio = mine.over(its)
    yield Row(
        id="1a",
        what=what,
        value=mine.median,
        unit="msg/s",
        baseline=f"Node-RED {nodered.VERSION}, {its.median:,.0f} msg/s",
        ratio=ratio,
        reach=">= 1.4",
        ok=ratio >= 1.4,
        spread=mine.spread,
    )


def _answered(port: int, feed: Feed, topic: str) -> float:
    listener = Listener(port, topic, feed.n_messages)
    began_s = time.perf_counter()
    feed.send()
    listener.wait()
    return feed.n_messages / (time.perf_counter() - began_s)


def durable(folder: Path) -> Iterator[Row]:
    """2: QoS 1 -> ONNX -> committed (FULL) -> PUBACK. 5: QoS 1 -> journal -> PUBACK."""
    with broker(folder / "broker") as one:
        feed = Feed(folder, one.port, qos=1, n_messages=_N_DURABLE)
        direct = series_route(folder, qos=1, live=False, stored=True)
        journaled = series_route(folder, qos=1, live=False, stored=True, mode="journaled")

        def handled() -> float:
            with gateway(folder / "gateway", one.port, direct) as subject:
                return _passed(subject, feed, _HANDLED)

        def kept() -> float:
            with gateway(folder / "journaled", one.port, journaled) as subject:
                return _passed(subject, feed, "gatewayd_messages_journaled_total")

        ours, kept_ours, bare_loop, slow_loop, limit = rounds(
            [
                handled,
                kept,
                lambda: bare("mqttium", one.port, 1, feed),
                lambda: bare("aiomqtt", one.port, 1, feed),
                lambda: broker_limit(one.port, 1, feed),
            ]
        )
    what = "QoS 1 in, ONNX, result committed (FULL), PUBACK"
    row = {"id": "2", "what": what, "value": ours.median, "unit": "msg/s", "spread": ours.spread}
    yield Row(**row, reach=">= 20,000 msg/s on the reference box", ok=ours.median >= 20_000)
    for name, its, least in (("MQTTium manual-ack", bare_loop, 0.75), ("aiomqtt", slow_loop, 1.5)):
        ratio = ours.over(its)
        base = f"bare {name} loop, {its.median:,.0f} msg/s"
        yield Row(**{**row, "id": "2a"}, baseline=base, ratio=ratio, reach=f">= {least}", ok=ratio >= least)
    beside = f"broker's limit, {limit.median:,.0f} msg/s"
    yield Row(**{**row, "id": "2b"}, baseline=beside, ratio=ours.over(limit))
    ratio = kept_ours.over(bare_loop)
    yield Row(
        id="5",
        what="journaled route: QoS 1 in, journal, PUBACK",
        value=kept_ours.median,
        unit="msg/s",
        baseline=f"bare MQTTium manual-ack loop, {bare_loop.median:,.0f} msg/s",
        ratio=ratio,
        reach=">= 0.75",
        ok=ratio >= 0.75,
        spread=kept_ours.spread,
    )


def _passed(subject: Gateway, feed: Feed, name: str) -> float:
    before = metric(subject, name)
    began_s = time.perf_counter()
    feed.send()
    wait_for(subject, name, before + feed.n_messages)
    return feed.n_messages / (time.perf_counter() - began_s)
