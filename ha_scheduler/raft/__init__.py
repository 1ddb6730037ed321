"""Raft as a pure state machine: messages and ticks in, a `Ready` out. No I/O, clock or threads.

Start with `RawNode` (node.py) and the contract of `Ready` (ready.py). Bare section numbers are
those of Ongaro's thesis, "Consensus: Bridging Theory and Practice" (2014).
"""
