"""Upstream's own tests, run with our classes in place of the originals.

``python -m tests.upstream CHECKOUT`` is the command; docs/testing.md says more.
"""
