"""What an engine is kept from, by the kernel: it runs the code of users.

``plan`` is decided by the daemon, and carried out by the engine's process on itself
(``peer/engine/launch.py``) before any code of users is in it. It takes no privilege, and needs
nothing installed. Imports nothing of ours.
"""
