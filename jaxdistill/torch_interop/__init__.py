"""Conversions from and to PyTorch, timm and segmentation_models_pytorch (SMP).

Only this package imports them; install the extra `torch`. `jaxdistill convert-weights` and
`jaxdistill export-teacher` are its commands.
"""
