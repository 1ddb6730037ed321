"""The gate of each listening port: who may begin, before anybody is known."""
