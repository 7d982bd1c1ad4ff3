"""The MQTT sink: each result is an event on another broker, delivered when that broker has acknowledged it.

MQTT 5 carries CloudEvents in binary mode (attributes as user properties, the result as payload), 3.1.1 in structured
mode (one JSON document): CloudEvents MQTT protocol binding 1.0.2. Only MQTT 5 can refuse a message: over 3.1.1 a broker
acknowledges what its access rules forbid and throws it away.
"""

import asyncio
from collections.abc import Mapping, Sequence

from mqttium import (
    ConnectRefusedError,
    MQTTError,
    MQTTProtocolVersion,
    NotConnectedError,
    PacketTooLargeError,
    ProtocolError,
    PublishRejectedError,
)
from mqttium.api import AsyncClient, PublishReceipt

from gatewayd.config import schema
from gatewayd.errors import ConfigError, SinkMisconfigured, SinkUnavailable
from gatewayd.events import DATA_CONTENT_TYPE, event_attributes, event_json
from gatewayd.mqtt import connect
from gatewayd.mqtt.encoded import publish_properties
from gatewayd.ports import StoredResult
from gatewayd.sinks import wire

# PUBACK reason codes (MQTT 5, 3.4.2.1) that are about this one message; any other is about the broker or our rights.
_REFUSES_MESSAGE = {0x95: "packet too large", 0x99: "payload format invalid"}
_NEEDS_OPERATOR = {
    0x87: "let this user publish to this topic in the broker's access rules",
    0x90: "the broker does not take this topic name: change the sink's `topic`",
}
_NO_WILDCARD = str.maketrans("+#\0", "___")  # a kind is the handler's own word; a topic must not hold these
_Pairs = tuple[tuple[str, str], ...]
_GREETING_BYTES = 160  # CONNECT with names and a password, CONNACK with its properties, DISCONNECT


class MqttSink:
    """Implements ports.Sink. Connects when there is something to send; the uplink decides when to try again.

    Args:
        config: the sink's table.
        name: the sink's name, for the client id.
        gateway: the gateway's id, for topics and event sources.
        password: the resolved password, or None.
    """

    def __init__(self, config: schema.MqttSink, *, name: str, gateway: str, password: str | None) -> None:
        self._config = config
        self._name = name
        self._gateway = gateway
        self._password = password
        self._is_v5 = config.protocol == "5"
        self._client: AsyncClient | None = None
        self._is_tls = config.tls is not None and not config.unix_socket
        self.sent_bytes = 0
        self._connecting = asyncio.Lock()  # several routes may deliver to one sink at once

    async def send(self, results: Sequence[StoredResult]) -> Mapping[str, str]:
        """Publish with QoS 1 and return when every PUBACK is there; map each refused key to why.

        Raises SinkUnavailable when the broker is away or does not answer within `timeout_s`, SinkMisconfigured when it
        turns us away.
        """
        client = await self._connected()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await self._publish(client, results)
        except TimeoutError as exc:
            await self._hang_up(client)
            raise SinkUnavailable(f"the broker did not acknowledge within {self._config.timeout_s:g} s") from exc
        except MQTTError as exc:
            await self._hang_up(client)
            raise SinkUnavailable(f"the link to the broker broke: {exc}") from exc

    async def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            await self._hang_up(self._client)

    async def _publish(self, client: AsyncClient, results: Sequence[StoredResult]) -> dict[str, str]:
        refused: dict[str, str] = {}
        sent: list[tuple[StoredResult, PublishReceipt]] = []
        n_bytes = 0
        try:
            for stored in results:
                topic = self._topic(stored)
                payload, pairs = self._message(stored)
                n_bytes += wire.publish_packet(topic, payload, content_type=DATA_CONTENT_TYPE, pairs=pairs)
                properties = None if pairs is None else publish_properties(DATA_CONTENT_TYPE, pairs)
                try:
                    sent.append((stored, await client.publish(topic, payload, qos=1, properties=properties)))
                except PacketTooLargeError as exc:
                    refused[stored.key] = f"packet too large: {exc}"
                except ProtocolError as exc:
                    raise _misconfigured(f"cannot publish to {topic!r}: {exc}", _NEEDS_OPERATOR[0x90]) from exc
        finally:  # whatever became of them, they were handed to the connection; many share a segment
            self.sent_bytes += wire.on_wire(n_bytes, is_tls=self._is_tls)
        for stored, receipt in sent:
            try:
                await receipt.wait()
            except PublishRejectedError as exc:
                refused[stored.key] = self._refusal(stored, exc)
        return refused

    def _refusal(self, stored: StoredResult, exc: PublishRejectedError) -> str:
        """Why this one result is refused for good. Raises what holds for every result."""
        code = exc.reason_code
        if code in _REFUSES_MESSAGE:
            return _REFUSES_MESSAGE[code]
        if code in _NEEDS_OPERATOR:
            raise _misconfigured(f"the broker refuses {self._topic(stored)!r} (0x{code:02x})", _NEEDS_OPERATOR[code])
        raise SinkUnavailable(f"the broker took no message: reason 0x{code:02x}") from exc

    def _topic(self, stored: StoredResult) -> str:
        filled = {"gateway": self._gateway, "route": stored.route, "kind": stored.kind.translate(_NO_WILDCARD)}
        topic = self._config.topic
        for name, value in filled.items():
            topic = topic.replace(f"{{{name}}}", value)
        return topic

    def _message(self, stored: StoredResult) -> tuple[bytes, _Pairs | None]:
        """The payload and, over MQTT 5, the user properties."""
        if not self._is_v5:
            return event_json(stored, self._gateway), None
        attributes = event_attributes(stored, self._gateway)
        attributes.pop("datacontenttype", None)  # in binary mode it is the content type of the packet
        return stored.data, tuple(attributes.items())

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            client = self._client
            if client is not None and client.is_connected:
                return client
            self._client = None
            client = self._new_client()
            self.sent_bytes += wire.connecting(is_tls=self._is_tls) + wire.on_wire(_GREETING_BYTES, is_tls=self._is_tls)
            await self._connect(client)
            self._client = client
            return client

    async def _connect(self, client: AsyncClient) -> None:
        config = self._config
        try:
            if config.unix_socket:
                await client.connect_unix(config.unix_socket, timeout=config.connect_timeout_s)
            else:
                tls = connect.tls_context(config.tls, f"sinks.{self._name}.tls")
                await client.connect(config.host, config.port, ssl=tls, timeout=config.connect_timeout_s)
        except ConfigError as exc:  # a certificate file that is gone may come back: no reason to end the daemon
            raise _misconfigured(str(exc), exc.hint) from exc
        except ConnectRefusedError as exc:
            hint = connect.hint(config.protocol, exc.reason_code)
            if hint:
                raise _misconfigured(str(exc), hint) from exc
            raise SinkUnavailable(str(exc)) from exc
        except (MQTTError, OSError, UnicodeError) as exc:
            raise SinkUnavailable(str(exc) or type(exc).__name__) from exc

    def _new_client(self) -> AsyncClient:
        config = self._config
        return AsyncClient(
            connect.client_id(config, self._gateway, f"-{self._name}"),
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_v5 else MQTTProtocolVersion.MQTTv311,
            keepalive=config.keepalive_s,
            ping_timeout=config.keepalive_s / 2,
            username=config.username,
            password=self._password,
        )

    async def _hang_up(self, client: AsyncClient) -> None:
        if self._client is client:
            self._client = None
        try:
            await client.disconnect()
        except NotConnectedError:
            return


def _misconfigured(message: str, hint: str) -> SinkMisconfigured:
    error = SinkMisconfigured(message)
    error.hint = hint
    return error
