"""The protobuf form of a Sparkplug B payload. Pure.

Source: the Eclipse Sparkplug specification 3.0.0, section 6.4.1 (its Google Protocol Buffer schema): the numbers below.
The descriptor is made here at run time, not generated: generated code is bound to a version of the library. Text is
read as bytes, for a publisher's text need not be UTF-8; what we do not read (metadata, properties, data sets,
templates) stays as the bytes it came in.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from gatewayd.errors import RejectedError

BOOLEAN, UINT64 = 11, 8  # data types
REBIRTH = b"Node Control/Rebirth"
BD_SEQ = b"bdSeq"

_TYPES = descriptor_pb2.FieldDescriptorProto
_PAYLOAD = (
    ("timestamp", 1, _TYPES.TYPE_UINT64),  # milliseconds since the epoch
    ("seq", 3, _TYPES.TYPE_UINT64),
    ("uuid", 4, _TYPES.TYPE_BYTES),
    ("body", 5, _TYPES.TYPE_BYTES),
)
_METRIC = (
    ("name", 1, _TYPES.TYPE_BYTES),
    ("alias", 2, _TYPES.TYPE_UINT64),
    ("timestamp", 3, _TYPES.TYPE_UINT64),
    ("datatype", 4, _TYPES.TYPE_UINT32),
    ("is_historical", 5, _TYPES.TYPE_BOOL),
    ("is_transient", 6, _TYPES.TYPE_BOOL),
    ("is_null", 7, _TYPES.TYPE_BOOL),
    ("metadata", 8, _TYPES.TYPE_BYTES),
    ("properties", 9, _TYPES.TYPE_BYTES),
)
_VALUE = (  # one of them
    ("int_value", 10, _TYPES.TYPE_UINT32),
    ("long_value", 11, _TYPES.TYPE_UINT64),
    ("float_value", 12, _TYPES.TYPE_FLOAT),
    ("double_value", 13, _TYPES.TYPE_DOUBLE),
    ("boolean_value", 14, _TYPES.TYPE_BOOL),
    ("string_value", 15, _TYPES.TYPE_BYTES),
    ("bytes_value", 16, _TYPES.TYPE_BYTES),
    ("dataset_value", 17, _TYPES.TYPE_BYTES),
    ("template_value", 18, _TYPES.TYPE_BYTES),
    ("extension_value", 19, _TYPES.TYPE_BYTES),
)


def _make_payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="gatewayd/sparkplug_b.proto", package="gatewayd", syntax="proto2")
    payload, metric = file.message_type.add(name="Payload"), file.message_type.add(name="Metric")
    for message, fields in ((payload, _PAYLOAD), (metric, _METRIC)):
        for name, number, kind in fields:
            message.field.add(name=name, number=number, type=kind, label=_TYPES.LABEL_OPTIONAL)
    metric.oneof_decl.add(name="value")
    for name, number, kind in _VALUE:
        metric.field.add(name=name, number=number, type=kind, label=_TYPES.LABEL_OPTIONAL, oneof_index=0)
    payload.field.add(
        name="metrics",
        number=2,
        type=_TYPES.TYPE_MESSAGE,
        label=_TYPES.LABEL_REPEATED,
        type_name=".gatewayd.Metric",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("gatewayd.Payload"))


Payload: Any = _make_payload_class()  # a protobuf message class; protobuf makes it, so it has no type here


def parse(payload: bytes) -> Any:
    """The payload. Raises RejectedError for what is none."""
    try:
        return Payload.FromString(payload)
    except DecodeError as error:
        raise RejectedError(f"not a Sparkplug B payload: {str(error)[:80]}", reason="decode") from None


def rebirth_command(now_ms: int) -> bytes:
    """The NCMD that asks an edge node to send its births again."""
    payload = Payload(timestamp=now_ms)
    payload.metrics.add(name=REBIRTH, timestamp=now_ms, datatype=BOOLEAN, boolean_value=True)
    encoded: bytes = payload.SerializeToString()
    return encoded
