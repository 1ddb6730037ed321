"""Connections: the ``ha://`` address, the directory of a cell, the watch, and who follows leaders.

Importing this package replaces distributed's ``tcp`` and ``tls`` transports by our own, which begin
a connection with an introduction (``preamble.py``), and has the end of connections logged as what
it is (``quiet.py``).
"""

from ha_scheduler.comm import preamble, quiet

preamble.register()
quiet.install()
