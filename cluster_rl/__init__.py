"""Trains a recurrent agent on Pokémon Red, or on the embedded cartridge, on a university cluster.

Importing it imports nothing: programs and parts are modules of their own.
"""

__version__ = "0.1.0"
