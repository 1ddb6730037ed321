"""What clients do while things break, each with what a right answer is."""
