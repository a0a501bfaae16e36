"""Names in the folder of a run by which every part of the package knows it."""

CONFIG = "config.yaml"
"""The complete configuration."""
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints."""
