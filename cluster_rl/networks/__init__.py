"""What the networks of `cluster_rl/model.py` are made of: frames as they take them, encoders, recurrent cells, noise.

In come a config and compact observations; out go layers of torch, and the tensors that they begin with. Actors and the
learner run them. It knows no game and no way of learning: it may import `config` and `errors` alone.
"""
