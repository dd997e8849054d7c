"""What `cluster_rl/watch.py` is made of: a run's page that follows its files, a video of the newest play, a server.

In come the files of a run, which are only read, and requests of browsers; out go pages, videos and small JSON, all on
one address with a token in it. A thread draws, another has videos made by a process of their own, and each connection
has its own. It sits on `report` and `rendering`, and never imports torch.
"""
