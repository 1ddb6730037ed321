"""What the project promises, shown: a real analysis that two leaders do not live to see the end of.

``python -m demo`` starts a three-peer cell with three workers, analyses the flights that left New
York in 2013, kills the leading engine and then a whole leading peer meanwhile, and compares every
result with pandas on the same data.
"""
