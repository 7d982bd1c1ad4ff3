"""Adapters of the Source seam: the local MQTT bus."""
