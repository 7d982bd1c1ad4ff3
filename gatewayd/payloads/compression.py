"""Compressed payloads: how a message says so, and decompression that no bomb gets past.

MQTT has no content encoding, so all of these are understood: a user property `content-encoding: gzip`, a parameter
`application/json; encoding=zstd`, a suffix `application/json+gzip`, and the bare types `application/gzip` and
`application/zstd`. Pure. Formats: RFC 1952 (gzip), RFC 8878 (Zstandard).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import zstandard

from gatewayd.errors import RejectedError

_BARE = {"application/gzip": "gzip", "application/x-gzip": "gzip", "application/zstd": "zstd"}
_GZIP_WBITS = 31  # zlib: 16 + 15, a gzip header and the largest window
_ZSTD_MAX_WINDOW_BYTES = 8 * 1024 * 1024  # RFC 8878, 3.1.1.1.2: what every decoder should support


@dataclass(frozen=True, slots=True)
class Form:
    """What a message says about its payload. "" where it says nothing."""

    media_type: str = ""  # lower case, without parameters and compression
    charset: str = ""
    encoding: str = ""  # "gzip", "zstd", or what we do not know


def form_of(content_type: str, properties: Sequence[tuple[str, str]] = ()) -> Form:
    """Read a content type and MQTT user properties."""
    form = _form(content_type)
    for name, value in properties:
        if name.lower() == "content-encoding":
            return Form(form.media_type, form.charset, _known(value.strip().lower()))
    return form


@lru_cache(maxsize=256)  # a bus has a handful of content types, and each comes with every message
def _form(content_type: str) -> Form:
    media_type, *parameters = (part.strip() for part in content_type.lower().split(";"))
    named = {name.strip(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in parameters)}
    encoding = named.get("encoding", "")
    if media_type in _BARE:
        encoding, media_type = _BARE[media_type], ""
    for suffix in ("gzip", "zstd"):
        if media_type.endswith("+" + suffix):
            encoding, media_type = suffix, media_type.removesuffix("+" + suffix)
    return Form(media_type, named.get("charset", ""), _known(encoding))


def _known(encoding: str) -> str:
    return "" if encoding == "identity" else encoding


def decompress(payload: bytes, encoding: str, max_bytes: int) -> bytes:
    """The payload as it was before compression, never more than `max_bytes`.

    Raises RejectedError: `too_large`, or `compression` for what is damaged, cut off or of an unknown encoding.
    """
    if encoding == "gzip":
        return _gunzip(payload, max_bytes)
    if encoding == "zstd":
        return _unzstd(payload, max_bytes)
    raise RejectedError(f"content encoding {encoding[:40]!r} is not known; gzip and zstd are", reason="compression")


def _gunzip(payload: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        body = stream.decompress(payload, max_bytes + 1)
    except zlib.error as error:
        raise RejectedError(f"not gzip: {error}", reason="compression") from None
    if len(body) > max_bytes:
        raise RejectedError(f"more than {max_bytes} bytes once decompressed (payload.max_bytes)", reason="too_large")
    if not stream.eof or stream.unused_data:
        # One member only: a payload of many empty ones would cost the square of its length.
        raise RejectedError("gzip data is cut off or goes on after its end", reason="compression")
    return body


def _unzstd(payload: bytes, max_bytes: int) -> bytes:
    try:
        if zstandard.frame_content_size(payload) > max_bytes:
            raise RejectedError(
                f"more than {max_bytes} bytes once decompressed (payload.max_bytes)", reason="too_large"
            )
        stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        return stream.decompress(payload, max_output_size=max_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        detail = f"not Zstandard, cut off, or more than {max_bytes} bytes once decompressed: {error}"
        raise RejectedError(detail, reason="compression") from None
