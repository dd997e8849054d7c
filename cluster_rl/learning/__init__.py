"""The learner's mathematics: sequences, batches, targets, losses, priorities, and R2D2, which puts them together.

In come sequences, batches and two networks; out go losses, TD errors, priorities and new weights. The learner's process
computes with it; actors build sequences and initial priorities by it. It knows no game, no file and no socket: it may
import `model`, `networks`, `config` and `errors` alone.
"""
