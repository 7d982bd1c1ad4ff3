"""The libraries that load models, one adapter each. Heavy imports happen inside the adapters, never here."""
