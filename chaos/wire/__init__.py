"""The network between the hosts of a run: what connects them, cuts them off, and spoils packets."""
