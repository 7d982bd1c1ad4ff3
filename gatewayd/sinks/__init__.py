"""Where results go: one module a sink."""
