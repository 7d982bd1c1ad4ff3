"""Configuration: the only reader of config files and of the environment."""

from gatewayd.config.environment import Environment, Paths, gateway_id, read_environment, resolve_paths
from gatewayd.config.load import ConfigErrors, Problem, check, load
from gatewayd.config.schema import Config
from gatewayd.config.secrets import read_secret

__all__ = [
    "Config",
    "ConfigErrors",
    "Environment",
    "Paths",
    "Problem",
    "check",
    "gateway_id",
    "load",
    "read_environment",
    "read_secret",
    "resolve_paths",
]
