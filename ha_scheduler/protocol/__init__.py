"""The protocol between the processes of a cell.

Every connection of ours begins with an ``Introduction`` and its answer (``introduction.py``):
version, release and features of both sides. Then come messages (``codec.py``) in frames
(``frames.py``).

The rules for later releases:

- **A field is added with a default**, and to a ``Part`` at its end. A receiver ignores unknown
  fields, and takes the default of missing ones. A field is never removed, moved or retyped.
- **An unknown message is refused by name** (``UnknownMessage``), and so is one with a field that
  is missing, of another type or out of range (``MalformedMessage``). Nothing is guessed.
- **A sender uses only announced features.** An addition gets a name in ``FEATURES``; its messages
  and fields are sent only to processes that announced the name.
- **Any other change raises ``VERSION``.** Processes of different versions refuse each other, with
  the one to upgrade. An ``Introduction`` is a map with ``version`` for ever, so that any two
  releases can do this.

``tests/protocol/test_vocabulary.py`` holds them; see ``docs/how-to/add-a-message.md``.
"""

from __future__ import annotations

RELEASE = "0.1.0"  # of this package; the build takes it from here
VERSION = 1  # of the protocol; equal on both sides of every connection
FEATURES: tuple[str, ...] = ()  # additions since the first release of this VERSION
