"""The configs that are shipped, how one is found, and what a key that is none of ours is answered."""
