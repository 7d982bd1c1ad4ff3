"""gatewayd: the inference daemon of an IoT gateway."""

__version__ = "0.1.0"
