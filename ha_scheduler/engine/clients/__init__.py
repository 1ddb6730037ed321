"""Clients: their sessions, and what they ask for."""
