"""What happens right now, for people who look: the page, `gatewayd top`, `gatewayd tail`."""
