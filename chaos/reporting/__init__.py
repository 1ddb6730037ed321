"""Pages that people look at: one of each run, and one of each suite."""
