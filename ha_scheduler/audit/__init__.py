"""What a peer did for whom, in a log that shows whether it was changed."""
