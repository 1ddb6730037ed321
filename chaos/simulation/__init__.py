"""Deterministic simulation of whole cells: ``dask-ha-chaos sim --help``."""
