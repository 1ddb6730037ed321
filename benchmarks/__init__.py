"""What the cell costs and how fast it fails over. Each module is one command; see docs/figures.md."""
