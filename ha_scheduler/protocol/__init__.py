"""What the processes of a cell say to each other, written once.

Every connection of ours begins with an ``Introduction`` and its answer (``introduction.py``): both
sides learn the protocol's version, the release and the features of the other before anything else
is said. What follows are messages (``codec.py``) in frames (``frames.py``).

The rule for every later release:

- **A field is added with a default**, and to a ``Part`` at its end. A receiver ignores fields that
  it does not know, and takes the default of one that did not come. A field is never removed, moved
  or given another type.
- **A message that is not known is refused by name** (``UnknownMessage``), and so is one in which a
  field is missing, of another type or out of range (``MalformedMessage``). Nothing is guessed.
- **A sender uses nothing that the other side did not announce.** Whatever a release adds gets a
  name in ``FEATURES``; a message or field of it is sent only to who announced that name.
- **What cannot be added so changes ``VERSION``**, and peers of different versions refuse each
  other, saying which one to upgrade. An ``Introduction`` is a map with ``version`` for ever, so
  that any two releases get as far as this.

``tests/protocol/test_vocabulary.py`` holds it; ``docs/how-to/add-a-message.md`` is the way to go.
"""

from __future__ import annotations

RELEASE = "0.1.0"  # of this package; the build takes it from here
VERSION = 1  # of the protocol; equal on both sides of every connection
FEATURES: tuple[str, ...] = ()  # what releases since the first of this VERSION have added
