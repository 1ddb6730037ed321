"""Negative controls: a safeguard is taken away, and the run must be found to be wrong."""
