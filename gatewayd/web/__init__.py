"""The local HTTP endpoints: read-only, and for this machine unless the config says otherwise."""
