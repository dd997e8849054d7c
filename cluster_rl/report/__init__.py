"""Pictures and videos of what was played, and bars of how far the work is.

In come positions and frames; out go maps as PNG and episodes as MP4, and of an embedded world's ROM the whole world as
PNG. The replayer, its worker processes and `debug_rollout` use it, and whatever takes long uses the bars. It may import
`game`, `cartridge` and `runs`, and never torch: a login node renders what a cluster played.
"""
