"""The spool's crash points are those of gatewayd.crash."""

from gatewayd.crash import CrashPoint

__all__ = ["CrashPoint"]
