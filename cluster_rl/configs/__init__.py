"""The configs that are shipped, how one is found, and what a key that is none of ours is answered.

In come the path or name that somebody typed, and keys of other projects; out go the file that is meant, read as a plain
mapping, and words for each unknown key. `cluster_rl/config.py`, which checks values, uses it in every process. It may
import `errors` alone.
"""
