"""Tiers from small to large: who answers, who is asked when that is not sure enough, and what may leave the box."""
