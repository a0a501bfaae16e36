"""Layers with two forms: one that computes arrays, and one that writes nodes of an ONNX graph.

Convolution and batch normalisation compute the same numbers as PyTorch's, and are folded into one
operation where the statistics of a batch are not measured.
"""

from jaxdistill.models.layers.base import Layer, constant
from jaxdistill.models.layers.batch_norm import BatchNorm
from jaxdistill.models.layers.conv_transpose import ConvTranspose
from jaxdistill.models.layers.convolution import Conv, ScaledConv, UpsampledConv
from jaxdistill.models.layers.fused import batch_conv_norm, conv_norm

__all__ = [
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Layer",
    "ScaledConv",
    "UpsampledConv",
    "batch_conv_norm",
    "constant",
    "conv_norm",
]
