"""`gatewayd init`: look at a broker, and write a config that works with what is there."""
