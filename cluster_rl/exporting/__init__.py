"""What a run has, in forms that other programs read: tables, walked coordinates, runs of Weights & Biases, policies.

`cluster_rl.export` uses it. In: the files of a run, which may be training meanwhile. Out: files that are there whole or
not at all. Only what exports a policy (`policy_*.py`) imports torch; packages that few need are extras, imported where
they are used. It may import `report`, `runs`, and for policies `model` and `acting`.
"""
