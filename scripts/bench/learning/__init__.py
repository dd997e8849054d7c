"""Our learner beside random play, PPO and recurrent PPO on the same environment; see `__main__.py`."""
