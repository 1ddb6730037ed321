"""Who belongs to the cell, which disk this is, and whether all can and do say the same."""
