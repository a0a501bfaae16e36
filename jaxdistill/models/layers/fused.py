"""A convolution and the BatchNorm behind it, as one operation where that is possible."""

from typing import Any

from jaxdistill.models.functional import relu
from jaxdistill.models.layers.batch_norm import BatchNorm
from jaxdistill.models.layers.convolution import Conv
from jaxdistill.models.symbolic import find_graph, join
from jaxdistill.ops import pointwise_norm


def conv_norm(conv: Conv, norm: BatchNorm, *inputs: Any, train: bool, rectify: bool = False) -> Any:
    """Applies a convolution and the BatchNorm behind it, in one operation where possible.

    They are folded into one convolution where the statistics of the batch are not needed.

    Args:
      conv: The convolution.
      norm: The BatchNorm.
      *inputs: The arguments of the convolution.
      train: Whether BatchNorm uses the statistics of the batch.
      rectify: Whether a ReLU follows.

    Returns:
      The normalised map.
    """
    graph = find_graph(inputs)
    if graph is not None:
        output = conv.to_onnx(graph, *inputs, norm=norm)
        # The ReLU is named after the module that holds both layers.
        return join("Relu", "relu", [output]) if rectify else output
    if norm.uses_batch(train):
        return batch_conv_norm(conv, norm, *inputs, rectify=rectify)
    factor, shift = norm.factor_and_shift()
    if conv.bias is not None:
        shift = shift + conv.bias[...] * factor
    y = conv.convolve(conv.kernel[...] * factor, *inputs)
    y = y + shift.astype(y.dtype)
    return relu(y) if rectify else y


def batch_conv_norm(conv: Conv, norm: BatchNorm, *inputs: Any, rectify: bool = False) -> Any:
    """Applies a convolution and a BatchNorm that uses the statistics of the batch.

    Args:
      conv: The convolution.
      norm: The BatchNorm.
      *inputs: The arguments of the convolution.
      rectify: Whether a ReLU follows.

    Returns:
      The normalised map.
    """
    if len(inputs) == 1 and pointwise_norm.is_worthwhile(conv.kernel.shape, conv.stride):
        return norm.convolved(conv, *inputs, rectify=rectify)
    return norm(conv(*inputs), train=True, rectify=rectify)
