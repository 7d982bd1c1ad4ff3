"""About how many bytes a sink's traffic takes on a metered link. Pure.

Counted: what is handed to the connection (a body as it is after compression, headers, MQTT packets) and what is read
of the answer. Estimated, because no program sees it: the headers of the packets, what TLS adds, the other side's
acknowledgments, making a connection. Not seen at all: retransmissions, DNS over other routes, keep-alives of idle
connections. A test holds the counted part against the bytes that pass a proxy.
"""

_SEGMENT_BYTES = 1400  # what a packet carries on a mobile link, at most
_HEADERS_BYTES = 52  # of a packet: 20 of IPv4 (RFC 791), 20 of TCP with 12 of time stamps (RFC 9293, RFC 7323)
_TLS_RECORD_BYTES = 22  # 5 of header, 1 of type, 16 of tag (RFC 8446, 5.2), for each 16 KiB
_MAX_RECORD_BYTES = 16_384
_CONNECT_BYTES = 600  # a name looked up, three packets to begin, four to end
_HANDSHAKE_BYTES = 5_000  # TLS 1.3 with a chain of two certificates: 3 to 6 KB


def on_wire(n_bytes: int, *, is_tls: bool) -> int:
    """Bytes on the link for `n_bytes` given to a connection at once: packets, records, and their acknowledgment."""
    if n_bytes <= 0:
        return 0
    if is_tls:
        n_bytes += -(-n_bytes // _MAX_RECORD_BYTES) * _TLS_RECORD_BYTES
    n_packets = -(-n_bytes // _SEGMENT_BYTES)
    n_acks = -(-n_packets // 2)
    return n_bytes + (n_packets + n_acks) * _HEADERS_BYTES


def connecting(*, is_tls: bool) -> int:
    """Bytes on the link for making a connection and ending it."""
    return _CONNECT_BYTES + (_HANDSHAKE_BYTES if is_tls else 0)


def publish_packet(topic: str, payload: bytes, *, content_type: str, pairs: tuple[tuple[str, str], ...] | None) -> int:
    """Size of a PUBLISH of QoS 1 and its PUBACK (MQTT 5, 3.3 and 3.4); `pairs` None: MQTT 3.1.1."""
    size = 2 + len(topic.encode()) + 2 + len(payload)
    if pairs is not None:
        properties = 3 + len(content_type.encode()) if content_type else 0
        properties += sum(5 + len(name.encode()) + len(value.encode()) for name, value in pairs)
        size += _n_length_bytes(properties) + properties
    return 1 + _n_length_bytes(size) + size + 4


def _n_length_bytes(n: int) -> int:
    """Bytes of a variable byte integer (MQTT 5, 1.5.5)."""
    return 1 + (n > 127) + (n > 16_383) + (n > 2_097_151)
