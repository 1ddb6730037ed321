"""Deterministic simulation of whole cells: ``python -m tests.simulation --help``."""
