"""Home Assistant: this gateway as one MQTT device."""
