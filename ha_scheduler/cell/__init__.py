"""A cell as its operator names it: peers, addresses, TLS files."""
