"""A whole cell on one machine, for laptops, notebooks and tests: ``LocalHACluster``."""
