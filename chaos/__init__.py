"""Break a cell on purpose, and judge what its users saw: ``dask-ha-chaos``."""
