"""Repairs of one peer's data while no daemon runs on it."""
