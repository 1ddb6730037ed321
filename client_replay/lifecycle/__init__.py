"""How a client connects, comes back and closes."""
