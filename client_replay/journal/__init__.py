"""What a client has submitted and no cell has committed yet."""
