"""What the cell costs and how fast it fails over. Each module is a command; see docs/figures.md."""
