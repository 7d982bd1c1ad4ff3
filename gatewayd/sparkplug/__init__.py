"""Sparkplug B, version 3 of the specification: its payloads read as messages, and its edge nodes followed."""
