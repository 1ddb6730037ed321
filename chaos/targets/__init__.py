"""What is broken: cells on loopback, on hosts of their own, or running ones; and plain Dask."""
