"""Coverage-guided fuzzing: ``python -m tests.fuzz TARGET -max_total_time=60`` (docs/testing.md)."""
