"""One job of a run, on this machine: what is checked before it starts, what keeps it alive, what ends it.

In come a config, arguments, signals and SLURM's word about the time left; out go checked inputs, started and restarted
processes, a reason for stopping, and lines for the person who watches. The launcher uses most of it; actor and learner
take their signals, devices, deadlines and watchdog from here, and `actor_job` is a job of actors alone. It may import
neither `acting` nor `training`: it starts them as programs.
"""
