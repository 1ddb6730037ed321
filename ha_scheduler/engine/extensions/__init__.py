"""Upstream's extensions and plugins, made to survive a leader."""
