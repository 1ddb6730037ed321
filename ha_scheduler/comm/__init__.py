"""Connections: the ``ha://`` address, what is known of a cell, the watch, and who follows leaders.

Importing this package replaces distributed's ``tcp`` and ``tls`` in its registry of transports by
our own, which begin a connection by saying who they are (``preamble.py``).
"""

from ha_scheduler.comm import preamble

preamble.register()
