"""The client's session with a cell, over all of its streams."""
