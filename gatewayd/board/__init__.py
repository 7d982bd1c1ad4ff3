"""The board that gatewayd runs on: its sensors, its energy, and what gives way while it is hot."""
