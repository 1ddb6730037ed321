"""Calls to the scheduler: repeated, numbered or sent once."""
