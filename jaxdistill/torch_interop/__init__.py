"""Conversions from and to PyTorch; the only package that imports torch (extra `torch`)."""
