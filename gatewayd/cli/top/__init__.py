"""`gatewayd top`: the flow in a terminal, the same picture as the page."""
