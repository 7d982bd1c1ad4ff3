"""A checksum for each row, so that what a disk has changed is never sent, nor handled, as if it were what was stored.

CRC-32 over all columns that do not change; the id is part of it, so that a row found under another id is found out.
0 stands for "never computed": rows that version 1 of the spool has written, and those are taken as they are.
"""

import struct
from zlib import crc32

_time = struct.Struct("<qd").pack
_id = struct.Struct("<q").pack


def result_sum(row: int, key: str, kind: str, subject: str, time: float, data: bytes, trace: str) -> int:
    """Of a row of `results`, 1 to 2**32 - 1."""
    return crc32(data, crc32(f"{key}\0{kind}\0{subject}\0{trace}".encode(), crc32(_time(row, time)))) or 1


def journal_sum(row: int, payload: bytes, props: bytes) -> int:
    """Of a row of `journal` without its count of attempts, 1 to 2**32 - 1."""
    return crc32(payload, crc32(props, crc32(_id(row)))) or 1
