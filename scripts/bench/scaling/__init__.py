"""A scale model of the cluster job: what its parts cost, what follows for whole runs, and whether that is so."""
