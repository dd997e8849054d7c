"""What lies below `replay_buffer.py`: the log of blocks on disk, the run's counters from it, the index, batches.

In come blocks with their actor, incarnation and number, and priorities; out go the places of blocks in segment files,
env steps, episodes and milestones, sequences drawn by priority, and the arrays that a batch consists of. It runs in
the learner's process and in serial mode. It knows no game and no network: it may import `learning.sequences`,
`learning.priorities`, `wire`, `runs` and `errors` alone.
"""
