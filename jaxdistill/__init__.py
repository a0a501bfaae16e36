"""Distil a large human-segmentation network into a small one, in JAX and Flax."""

import os

# onnxruntime needs a share of the GPU's memory; JAX would take most of it at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

__version__ = "0.1.0"
