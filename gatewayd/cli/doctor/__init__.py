"""`gatewayd doctor`: each thing a gateway needs, looked at in turn, with what to do where it is not right."""
