"""Checkpoints of a run, and the best student of a run's folder."""
