"""What lies below `replay_buffer.py`: the log of blocks on disk, the run's counters that follow from it, the sum tree.

In come blocks with their actor, incarnation and number, and priorities; out go the places of blocks in segment files,
env steps, episodes and milestones, and indices drawn by priority. It runs in the learner's process and in serial mode.
It knows no game and no network: it may import `learning.sequences`, `wire`, `runs` and `errors` alone.
"""
