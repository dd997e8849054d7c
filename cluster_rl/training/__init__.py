"""What the learner is made of, without sockets or threads: replay, R2D2, limiter, checkpoints, metrics in one trainer.

In come sequence blocks; out go updates, published parameters, checkpoints, `progress.json` and metrics. It runs in the
learner's process (`cluster_rl/learner.py`) and in the serial mode of `train_slim`. It may import neither `acting` nor
`emulator` nor anything else of the game: what was played reaches it as blocks.
"""
