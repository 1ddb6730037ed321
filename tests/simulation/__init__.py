"""The simulation of whole cells (``chaos/simulation``), and what it must find and not find."""
