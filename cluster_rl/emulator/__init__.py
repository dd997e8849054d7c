"""The only place that imports pyboy: console, snapshots, lessons, and the environment that an agent plays in.

In come a ROM, a config and buttons; out go steps (what was seen, masks, rewards) and, for recordings, RAM and pictures.
It runs in actors, in serial mode, in `evaluate`, the replayer and `debug_rollout`. It may import the parts that look at
the game (`game`, `affordances`, `occupancy_memory`, `cluster_map_features`, `rewards`), but nothing that acts or
learns, except for the shapes of what they see (`learning.sequences`, `model`). Importing it registers the environment
with gymnasium (`registration`).
"""

from cluster_rl.emulator.registration import register_envs

register_envs()
