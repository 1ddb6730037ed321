"""The virtual address: the leader's host has it, and no two hosts at once."""
