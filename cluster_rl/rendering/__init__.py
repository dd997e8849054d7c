"""What the replayer is made of: an episode log becomes a video with its picture, and worker processes do it.

In come logs, a ROM, and which episodes are wanted; out go videos as `report` draws and writes them. It runs in the
processes of `cluster_rl/replayer.py`, sits on `emulator` and `report`, and never imports torch: a login node renders
what a cluster played.
"""
