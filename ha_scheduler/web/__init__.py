"""HTTP of the processes of a cell: who may look, and what the daemon answers itself."""
