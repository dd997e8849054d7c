"""What each part of our agent is worth on the whole of Lanternvale: trainings with it and without it."""
