"""What the product keeps on disk, in memory: the same ports and contracts, for tests."""
