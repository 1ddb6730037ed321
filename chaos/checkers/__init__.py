"""Judges of a run that is over: each reads the record, and none asks anybody."""
