"""A cell as its operator names it: the list of peers, their addresses, the files of their TLS."""
