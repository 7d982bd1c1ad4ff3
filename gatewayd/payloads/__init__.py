"""Payload decoding: bytes of any format into a value, or a reason why not. Pure."""

from gatewayd.payloads.decoder import REASONS, Decoder
from gatewayd.payloads.paths import compile_path, follow

__all__ = ["REASONS", "Decoder", "compile_path", "follow"]
