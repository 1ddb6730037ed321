"""The journal: what a client has submitted, until it is committed, and on disk until it is fetched.

``journal.py`` decides what is kept, in which order and how much of it; ``keeper.py`` is the port to
where it is kept: ``memory.py``, or ``disk.py`` over one LMDB file (``file.py``, ``format.py``) at a
place that can hold one (``place.py``).
"""
