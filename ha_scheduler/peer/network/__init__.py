"""Between peers, and to who watches them: links, the peer port, what the others last said."""
