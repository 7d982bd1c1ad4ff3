"""Model bundles: reading, verifying, writing, fetching them, and the store that hands them to handlers."""
