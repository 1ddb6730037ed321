"""Our peers and the other Rafts for Python in the same commits and the same kills."""
