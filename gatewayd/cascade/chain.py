"""The hash chain of the audit trail: lines made, taken apart and checked. Pure.

A line is a record in canonical JSON (keys sorted, no white space, UTF-8), to which `prev` and `hash` are appended:

    digest = SHA-256 of the record, without `prev` and `hash`
    hash   = SHA-256 of `prev` followed by `digest`, all three in lower-case hexadecimal
    prev   = `hash` of the line before; 64 zeros for the first of all

So no line can be changed, removed, put in or moved without every `hash` after it being another. That a record enters as
its digest lets an export leave out lines of others: the digest in their place is enough to follow the chain.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

GENESIS = "0" * 64

_ENCODER = msgspec.json.Encoder(order="sorted")
_TAIL = re.compile(rb',"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}\n')
_TAIL_BYTES = len(b',"prev":"","hash":""}\n') + 2 * 64


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A line taken apart."""

    seq: int  # 0 for what stands for a line left out: which one follows from those around it
    time: float  # seconds since the epoch
    prev: str
    hash: str
    route: str = ""
    event: str = ""  # what the trail says of itself; "" for a decision
    record: bytes = b""  # canonical, without prev and hash; empty for a line left out
    last_hash: str = ""  # of event "removed": the hash its last line had


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    time: float = 0.0
    route: str = ""
    event: str = ""
    last_hash: str = ""


class _LeftOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    digest: str
    prev: str
    hash: str


_DAMAGED = (msgspec.MsgspecError, UnicodeDecodeError)  # the second one: a name that is not UTF-8

_read_head = msgspec.json.Decoder(_Head).decode
_read_left_out = msgspec.json.Decoder(_LeftOut).decode


def seal(record: Mapping[str, Any], prev: str) -> tuple[bytes, str]:
    """The line of a record after one with the hash `prev`, and its hash."""
    body = _ENCODER.encode(record)
    own = _link(prev, _sha256(body))
    return body[:-1] + b',"prev":"%b","hash":"%b"}\n' % (prev.encode(), own.encode()), own


def left_out(line: bytes) -> bytes:
    """What stands in an export for a line that is not shown. Raises ValueError when it is none of the trail."""
    link = unseal(line)
    if link is None:
        raise ValueError("not a line of the trail")
    return _left_out_line(_LeftOut(digest=_sha256(link.record), prev=link.prev, hash=link.hash))


def unseal(line: bytes) -> Link | None:
    """The parts of a line, complete with its line end; None when it is none of ours or was changed."""
    tail = _TAIL.fullmatch(line[-_TAIL_BYTES:])
    if tail is None:
        return None
    prev, own = tail[1].decode(), tail[2].decode()
    record = line[:-_TAIL_BYTES] + b"}"
    if own != _link(prev, _sha256(record)):
        return _unseal_left_out(line)
    try:
        head = _read_head(record)
    except _DAMAGED:
        return None
    return Link(
        seq=head.seq,
        time=head.time,
        prev=prev,
        hash=own,
        route=head.route,
        event=head.event,
        record=record,
        last_hash=head.last_hash,
    )


def _unseal_left_out(line: bytes) -> Link | None:
    try:
        found = _read_left_out(line)
    except _DAMAGED:
        return None
    if found.hash != _link(found.prev, found.digest) or line != _left_out_line(found):
        return None
    return Link(seq=0, time=0.0, prev=found.prev, hash=found.hash)


def _left_out_line(found: _LeftOut) -> bytes:
    return f'{{"digest":"{found.digest}","prev":"{found.prev}","hash":"{found.hash}"}}\n'.encode()


class Walk:
    """Follows a chain line by line. `seq` and `hash` are those of the last line that fitted."""

    def __init__(self, *, is_export: bool = False) -> None:
        """`is_export`: lines left out are allowed; in a trail's own files they are none of ours."""
        self.seq = 0  # 0 before the first line with a number
        self.hash = ""
        self._is_export = is_export

    def step(self, line: bytes) -> Link | str:
        """The line taken apart, or why it does not fit; after that the walk is over."""
        link = unseal(line)
        if link is None or (not link.seq and not self._is_export):
            return "its hash is not that of its content: the line was changed, or is none of the trail"
        if problem := self._misfit(link):
            return problem
        self.hash = link.hash
        self.seq = link.seq or (self.seq + 1 if self.seq else 0)
        return link

    def _misfit(self, link: Link) -> str:
        if self.hash and link.prev != self.hash:
            return "it does not follow the line before it: lines were removed, put in or moved"
        if link.seq and self.seq and link.seq != self.seq + 1:
            return f"its number is {link.seq}, and the one before it has {self.seq}"
        if (link.seq == 1) != (link.prev == GENESIS) and link.seq:
            return "only the first line of all has no line before it"
        return ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _link(prev: str, digest: str) -> str:
    return _sha256((prev + digest).encode())
