"""Configuration: the only reader of config files and of the environment."""

from gatewayd.config.schema import Config

__all__ = ["Config"]
