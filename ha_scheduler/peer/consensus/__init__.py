"""The consensus core in its process: who leads and until when, what has committed, snapshots."""
