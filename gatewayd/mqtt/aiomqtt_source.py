"""The second Source: aiomqtt 2.x. It acknowledges a QoS 1 message before our code runs: WARNING says what that means.

What it does keep: order, and nothing dropped while the process lives. aiomqtt's own queue is either without bound or
drops what does not fit; so its queue is replaced by one that hands each message to ours (waiting.py), and while that is
full the socket is left unread. Held back for longer than the keepalive the link is made anew, and the broker delivers
again what it has no PUBACK for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import aiomqtt
import structlog
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gatewayd.config import schema
from gatewayd.keys import KeyMaker, publisher_key
from gatewayd.mqtt import connect
from gatewayd.mqtt.remembered import Remembered, Subscription
from gatewayd.mqtt.subscriptions import Subscriptions
from gatewayd.mqtt.waiting import Waiting
from gatewayd.ports import Clock, Draw, Outgoing, RawMessage
from gatewayd.retry import Backoff

log = structlog.get_logger(__name__)

WARNING = (
    "adapter aiomqtt acknowledges QoS 1 messages when they are read, not when they are on disk: a crash or power cut"
    " loses up to max_waiting_messages and what intake holds."
    ' Set source.adapter = "mqttium" to lose nothing acknowledged'
)

_PUBLISH_S = 1.0  # how long one publish waits for the socket (QoS 0) or the broker's answer (QoS 1)


class AiomqttSource:
    """Implements ports.Source but for its main promise: `acks_after_commit` is False. Arguments as MqttiumSource."""

    acks_after_commit = False

    def __init__(
        self,
        config: schema.Source,
        *,
        gateway: str,
        filters: Sequence[tuple[str, int]],
        password: str | None,
        keys: KeyMaker,
        clock: Clock,
        draw: Draw,
        birth: Callable[[], bytes] = connect.plain_birth,
        on_event: connect.OnEvent = connect.ignore_event,
        remembered: Remembered | None = None,
    ) -> None:
        self._config = config
        self._gateway = gateway
        self._password = password
        self._keys = keys
        self._clock = clock
        self._draw = draw
        self._status = connect.status(config, gateway, birth)
        self._on_event = on_event
        self._is_v5 = config.protocol == "5"
        self._waiting = Waiting(config.max_waiting_messages, config.max_waiting_bytes)
        wanted = [(connect.shared_filter(config, name), qos) for name, qos in filters]
        self._subscriptions = Subscriptions(wanted, remembered or Remembered(), is_v5=self._is_v5, draw=draw)
        self._has_identifiers = True  # what the last CONNACK said
        self._client: aiomqtt.Client | None = None
        self._is_subscribed = False
        self.duplicates = 0  # aiomqtt does not pass the DUP flag on: a redelivery cannot be told from a new message

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached now."""
        return self._client is not None

    @property
    def is_subscribed(self) -> bool:
        """Whether the broker has taken all of our subscriptions."""
        return self._is_subscribed

    @property
    def protocol(self) -> int:
        """5 or 4 (3.1.1)."""
        return 5 if self._is_v5 else 4

    async def run(self) -> None:
        """Keep the connection until cancelled. Raises ConfigError on what no retry mends."""
        tls = connect.tls_context(self._config.tls, "source.tls")
        wish = self._config.reconnect
        backoff = Backoff(wish.initial_s, wish.max_s, wish.stable_s)
        while True:
            client = self._new_client(tls)
            try:
                self._listen_to_connack(client)
                async with client:
                    backoff.connected(self._clock.monotonic())
                    await self._serve(client)
            except aiomqtt.MqttError as exc:
                self._report_loss(exc)
            finally:
                self._client = None
                self._is_subscribed = False
                _hang_up(client)
            connect.stop_if_cancelled()
            backoff.lost(self._clock.monotonic())
            delay_s = backoff.next_delay_s(self._draw())
            self._on_event("retry", {"delay_s": delay_s})
            await self._clock.sleep(delay_s)

    def messages(self) -> AsyncIterator[RawMessage]:
        """Messages in order of arrival, over reconnects; for one reader."""
        return self._waiting.take()

    async def ack(self, receipts: Sequence[Any]) -> None:
        """Nothing to do: the PUBACK left when the message was read."""

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        content_type: str = "",
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Publish. False when it was not handed over within a second, or there is no connection."""
        client = self._client
        if client is None:
            return False
        try:
            await client.publish(
                topic, payload, qos, retain, self._properties(content_type, properties), timeout=_PUBLISH_S
            )
        except (aiomqtt.MqttError, ValueError):  # ValueError: paho's word for a topic or payload it does not take
            return False
        return True

    async def publish_all(
        self, topic: str, messages: Sequence[Outgoing], *, qos: int = 0, content_type: str = ""
    ) -> int:
        """One after the other. How many were handed over."""
        n = 0
        for payload, own, shared in messages:
            pairs = (*shared, *own)
            n += await self.publish(topic, payload, qos=qos, content_type=content_type, properties=pairs)
        return n

    async def pause(self) -> None:
        """Give out no message any more."""
        self._waiting.pause()

    # --- one connection

    def _new_client(self, tls: Any) -> aiomqtt.Client:
        config, will = self._config, self._status
        lasting: Properties | None = None
        if self._is_v5:
            lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            lasting.SessionExpiryInterval = config.session_expiry_s
        handover: Any = partial(_Handover, self._take)
        return aiomqtt.Client(
            config.unix_socket or config.host,
            config.port,
            transport="unix" if config.unix_socket else "tcp",
            username=config.username,
            password=self._password,
            identifier=connect.client_id(config, self._gateway),
            protocol=aiomqtt.ProtocolVersion.V5 if self._is_v5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if self._is_v5 else False,
            clean_start=False if self._is_v5 else MQTT_CLEAN_START_FIRST_ONLY,  # paho refuses another with 3.1.1
            properties=lasting,
            will=aiomqtt.Will(will.topic, will.offline, 1, True) if will else None,
            keepalive=config.keepalive_s,
            timeout=config.connect_timeout_s,
            tls_context=None if config.unix_socket else tls,
            queue_type=handover,
        )

    def _listen_to_connack(self, client: aiomqtt.Client) -> None:
        """Learn what aiomqtt drops: whether the broker has subscription identifiers."""
        paho = _paho(client)
        on_connect = paho.on_connect

        def hear(*arguments: Any) -> None:
            self._has_identifiers = bool(getattr(arguments[-1], "SubscriptionIdentifierAvailable", 1))
            on_connect(*arguments)

        paho.on_connect = hear

    async def _serve(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._on_event("connected", {})
        log.info("connected to the broker", broker=self._config.unix_socket or self._config.host)
        self._is_subscribed = await self._subscribe(client)
        connect.stop_if_cancelled()
        status = self._status
        if status is not None:
            await client.publish(status.topic, status.birth(), 1, retain=True)
            connect.stop_if_cancelled()
        try:
            async with asyncio.TaskGroup() as tasks:
                holder = tasks.create_task(self._hold_back(client), name="source-hold-back")
                cause = await _until_lost(client)
                holder.cancel()
        except asyncio.CancelledError:
            if status is not None:
                await self.publish(status.topic, status.offline, qos=1, retain=True)
            raise
        raise cause

    async def _subscribe(self, client: aiomqtt.Client) -> bool:
        """True: nothing was refused."""
        is_granted = True
        subscriptions = self._subscriptions
        for packet in await asyncio.to_thread(subscriptions.begin, has_identifiers=self._has_identifiers):
            codes = [_code(code) for code in await self._ask(client, packet)]
            connect.stop_if_cancelled()
            subscriptions.answered(packet, codes)
            is_granted = is_granted and all(code < 0x80 for code in codes)
        if stale := list(subscriptions.stale):
            await client.unsubscribe(stale)  # aiomqtt does not pass the broker's reason codes on
            connect.stop_if_cancelled()
            log.info("unsubscribed from what the config no longer names", filters=stale)
        await asyncio.to_thread(subscriptions.unsubscribed, stale)
        return is_granted

    async def _ask(self, client: aiomqtt.Client, packet: Sequence[Subscription]) -> Sequence[Any]:
        wishes: Any = [
            # MQTT 5: retained messages come with a new subscription only, not with each connection.
            (one.filter, SubscribeOptions(qos=one.qos, retainHandling=1) if self._is_v5 else one.qos)
            for one in packet
        ]
        properties: Properties | None = None
        if packet[0].identifier:
            properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
            properties.SubscriptionIdentifier = packet[0].identifier
        codes: Sequence[Any] = await client.subscribe(wishes, properties=properties)
        return codes

    async def _hold_back(self, client: aiomqtt.Client) -> None:
        """Leave the socket unread while too many messages wait."""
        loop = asyncio.get_running_loop()
        while True:
            await self._waiting.full()
            sock = _paho(client).socket()
            if sock is None or sock.fileno() < 0:
                return
            loop.remove_reader(sock)
            await self._waiting.room()
            if _paho(client).socket() is sock:
                loop.add_reader(sock, _read, _paho(client))

    def _report_loss(self, exc: aiomqtt.MqttError) -> None:
        reason_code = _code(exc.rc) if isinstance(exc, aiomqtt.MqttCodeError) else None
        hint = connect.hint("5", reason_code)  # paho gives the codes of 3.1.1 as those of MQTT 5
        self._on_event("lost", {"cause": type(exc).__name__})
        (log.error if hint else log.warning)("no connection to the broker", cause=str(exc), hint=hint or None)

    # --- one message

    def _take(self, message: aiomqtt.Message) -> None:
        topic = message.topic.value
        found = message.properties
        if found is not None and self._subscriptions.can_tell_copies and self._is_copy(topic, found):
            return
        attributes: list[tuple[str, str]] = getattr(found, "UserProperty", [])
        named = dict(attributes)
        id_, source = named.get("id"), named.get("source")
        self._waiting.put(
            RawMessage(
                topic=topic,
                payload=message.payload,
                time=self._clock.now(),
                key=publisher_key(topic, source, id_) if id_ and source else self._keys.next(),
                qos=message.qos,
                retain=message.retain,
                content_type=getattr(found, "ContentType", ""),
                properties=tuple((name, value) for name, value in attributes),
            )
        )

    def _is_copy(self, topic: str, found: Properties) -> bool:
        if not self._subscriptions.is_copy(topic, getattr(found, "SubscriptionIdentifier", ())):
            return False
        self._on_event("copy", {})
        return True

    def _properties(self, content_type: str, properties: Sequence[tuple[str, str]]) -> Properties | None:
        if not self._is_v5 or not (content_type or properties):
            return None
        made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if content_type:
            made.ContentType = content_type
        if properties:
            made.UserProperty = list(properties)
        return made


class _Handover(asyncio.Queue[aiomqtt.Message]):
    """Stands in for aiomqtt's queue and keeps nothing: `put_nowait` is called once a message, by the reader."""

    def __init__(self, take: Callable[[aiomqtt.Message], None], maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._hand_over = take

    def put_nowait(self, item: aiomqtt.Message) -> None:
        self._hand_over(item)


async def _until_lost(client: aiomqtt.Client) -> aiomqtt.MqttError:
    try:
        async for _ in client.messages:  # never yields, see _Handover; raises when the link is lost
            pass
    except aiomqtt.MqttError as exc:
        return exc
    return aiomqtt.MqttError("the link ended")


def _paho(client: aiomqtt.Client) -> Any:
    # aiomqtt shows neither its socket nor its paho client, and has no other way to hold the sender back or to hang up
    # on a broker that accepts and does not answer.
    return client._client


def _read(paho: Any) -> None:
    paho.loop_read()
    while (sock := paho.socket()) is not None and hasattr(sock, "pending") and sock.pending() > 0:
        paho.loop_read()


def _hang_up(client: aiomqtt.Client) -> None:
    """Close what a failed attempt left open: it would come alive later and take our mqtt_session over."""
    if _paho(client).socket() is not None:
        _paho(client).disconnect()


def _code(reason: Any) -> int:
    return int(getattr(reason, "value", reason) or 0)
