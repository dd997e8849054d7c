"""Pictures and videos of what was played, a page of what a run is and did, and bars of how far the work is.

In come positions and frames; out go maps as PNG, episodes as MP4, GIF or PNGs and a list of them, and of an embedded
world's ROM the whole world as PNG. The replayer, its worker processes and `debug_rollout` use it, and whatever takes
long uses the bars. As a program of its own (`python -m cluster_rl.report`) it makes one HTML page of a run's files. It
may import `game`, `cartridge`, `exploration` and `runs`, and never torch: a login node renders and shows what a cluster
played.
"""
