"""What is true of the game, from bytes alone: addresses, flags, maps, names, and the state that RAM holds.

In come RAM images and savestates; out go `GameState`s, milestones, names and places, for Pokémon Red and for the
embedded cartridge by the same code. Any process reads it, most of all actors. It imports nothing of ours but `errors`:
no emulator, no config, no torch.
"""
