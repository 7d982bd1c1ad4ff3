"""`gatewayd demo`: the real daemon, real models, an embedded broker, simulated devices, and a cloud that is cut."""
