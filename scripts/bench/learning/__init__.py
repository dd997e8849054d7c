"""Our learner beside PPOs, a Q-table and random play on the same environment; see `__main__.py`."""
