"""The ``ha://`` address, what is known of a cell, the watch, and who follows its leaders."""
