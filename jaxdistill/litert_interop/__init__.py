"""Conversions from TensorFlow Lite files.

Only this package and `exporters.litert`, which writes such files, import LiteRT; install the extra
`litert`.

`jaxdistill convert-weights from-mediapipe` is its command.
"""
