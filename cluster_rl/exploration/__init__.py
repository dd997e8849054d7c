"""What makes an agent explore beyond its own random actions: curiosity, quests, and where episodes start.

In come batches as they are sampled and episodes as they are logged; out go rewards, estimates and start states. The
learner's process and serial mode compute with it; actors take start states from it. It may import `game`, `wire`,
`learning`, `runs`, `config` and `errors`; what works on batches, torch, `model` and `networks` too.
"""
