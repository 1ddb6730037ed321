"""How many workers a cell should have, whoever starts them.

Policy and backend are apart: ``policy.py`` says how many each owner of workers should have and is
pure; ``goals.py`` keeps the goals in the ledger and says the signals; a backend (a cluster object,
a command of the site, a class of a user's) starts and ends workers.
"""
