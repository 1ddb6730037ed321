"""The log and ledger ports, and LMDB behind them. Start with ``port``."""
