"""Distil a large human-segmentation network into a small one, in JAX and Flax."""

__version__ = "0.1.0"
