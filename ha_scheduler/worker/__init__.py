"""Worker and Nanny that follow the leader of a cell."""
