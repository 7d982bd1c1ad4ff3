"""Live results: each result back on the local bus at once, so that a local actuator waits for nothing.

CloudEvents binary mode on MQTT 5 (attributes as user properties, the data as payload), structured JSON on 3.1.1. A
live result that cannot be published now is counted and forgotten: delivery is the spool's business.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gatewayd.events import (
    DATA_CONTENT_TYPE,
    EVENT_CONTENT_TYPE,
    event_json,
    event_source,
    own_properties,
    shared_properties,
)
from gatewayd.ports import NewResult, Outgoing, Source, StoredResult


class LiveReport(Protocol):
    """What live publishing tells telemetry."""

    def live_published(self, route: str, n: int) -> None: ...

    def live_failed(self, route: str, n: int) -> None: ...


class LivePublisher:
    """Publishes on `gatewayd/<gateway>/results/<route>`."""

    def __init__(self, source: Source, gateway: str, qos: Mapping[str, int], report: LiveReport) -> None:
        self._source = source
        self._gateway = gateway
        self._qos = qos
        self._report = report

    async def __call__(self, route: str, results: Sequence[NewResult]) -> None:
        """Publish the results of one batch, in order."""
        is_binary = self._source.protocol == 5
        messages = self._binary(route, results) if is_binary else self._structured(route, results)
        n_published = await self._source.publish_all(
            f"gatewayd/{self._gateway}/results/{route}",
            messages,
            qos=self._qos[route],
            content_type=DATA_CONTENT_TYPE if is_binary else EVENT_CONTENT_TYPE,
        )
        self._report.live_published(route, n_published)
        if n_published < len(results):
            self._report.live_failed(route, len(results) - n_published)

    def _binary(self, route: str, results: Sequence[NewResult]) -> list[Outgoing]:
        source = event_source(self._gateway, route)
        shared: dict[tuple[str, str, float], tuple[tuple[str, str], ...]] = {}
        messages = []
        for result in results:
            facts = result.kind, result.subject, result.time
            if facts not in shared:  # a device's results of one batch differ in nothing else
                shared[facts] = shared_properties(*facts, source)
            messages.append(Outgoing(result.data, own_properties(result.key, result.traceparent), shared[facts]))
        return messages

    def _structured(self, route: str, results: Sequence[NewResult]) -> list[Outgoing]:
        return [Outgoing(event_json(_stored(route, result), self._gateway)) for result in results]


def _stored(route: str, result: NewResult) -> StoredResult:
    return StoredResult(
        row=0,
        route=route,
        key=result.key,
        kind=result.kind,
        subject=result.subject,
        time=result.time,
        data=result.data,
        traceparent=result.traceparent,
    )
