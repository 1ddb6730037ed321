"""Faults: each says where it cannot be made, proves that it fired, and has its heal."""
