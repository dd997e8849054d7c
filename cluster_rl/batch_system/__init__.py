"""Jobs as SLURM sees them: what would be submitted, whether it can work, and what follows when a job has ended.

In come `slurm/settings.env`, a job script, options and the trainer's arguments; out go a plan, one line for each thing
checked, jobs in the queue, and the state of a chain in the run's folder. `python -m cluster_rl.cluster` runs it, on a
login node and at the end of each job. It may import neither `acting` nor `training`: it starts them by scripts.
"""
