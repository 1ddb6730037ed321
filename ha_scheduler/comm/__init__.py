"""The ``ha://`` address, what is known of a cell, and the watch that notices its changes."""
