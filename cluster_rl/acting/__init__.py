"""What an actor is made of: several emulators, one batched policy, exploration, finished sequences out.

In come parameters and, at each step, what the emulators show; out go sequence blocks with initial priorities, and
episode logs. It runs in the actor process (`cluster_rl/actor.py`), in the serial mode of `train_slim` and, in part, in
`evaluate`. It sits on `emulator`, `learning`, `model`, `networks`, `wire` and `runs`; it may import neither the replay
nor anything else of the learner's process.
"""
