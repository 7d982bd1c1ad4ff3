"""The built-in handlers. They use the same door as anybody else's: `gatewayd.api` and the entry point group."""
