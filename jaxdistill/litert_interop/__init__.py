"""Conversions from TensorFlow Lite files.

Only this package imports LiteRT; install the extra `litert`.

`jaxdistill convert-weights from-mediapipe` is its command.
"""
