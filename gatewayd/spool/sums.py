"""A checksum for each row, so that what a disk has changed is never sent, nor handled, as if it were what was stored.

CRC-32 over all columns that do not change; the id is part of it, so that a row found under another id is found out.
0 stands for "never computed": rows that version 1 of the spool has written, and those are taken as they are.
"""

import struct
from collections.abc import Sequence
from zlib import crc32

import apsw

UNSUMMED_UPTO = "unsummed_upto"  # name in `state`: the last sequence number that version 1 has given out

_time = struct.Struct("<qd").pack
_id = struct.Struct("<q").pack


def result_sum(row: int, key: str, kind: str, subject: str, time: float, data: bytes, trace: str) -> int:
    """Of a row of `results`, 1 to 2**32 - 1."""
    return crc32(data, crc32(f"{key}\0{kind}\0{subject}\0{trace}".encode(), crc32(_time(row, time)))) or 1


def journal_sum(row: int, payload: bytes, props: bytes) -> int:
    """Of a row of `journal` without its count of attempts, 1 to 2**32 - 1."""
    return crc32(payload, crc32(props, crc32(_id(row)))) or 1


def fields_sum(*values: object) -> int:
    """Of a row of `routes`, `cursors` or `counters`, which always have one, 1 to 2**32 - 1."""
    return crc32(repr(values).encode()) or 1


def check_fields(checksum: int, *values: object) -> None:
    """Raises CorruptError when the row of `routes`, `cursors` or `counters` is not what was written."""
    if fields_sum(*values) != checksum:
        raise apsw.CorruptError("a route, a cursor or a counter is not what was written")


def letter_sum(row: Sequence[object]) -> int:
    """Of a row of `dead` without its id, 1 to 2**32 - 1."""
    route, sink, reason, detail, topic, payload, props, time, key = row
    head = repr((route, sink, reason, detail, topic, float(time), key)).encode()  # type: ignore[arg-type]
    return crc32(payload, crc32(props, crc32(head))) or 1  # type: ignore[arg-type]
