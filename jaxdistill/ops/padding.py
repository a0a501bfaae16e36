"""Padding of convolutions, and a check of compiled programs for padding that XLA gets wrong."""

import re
from typing import Literal

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Rows above and below, columns left and right."""
PaddingKind = Literal["symmetric", "same"]


def resolve_padding(kind: PaddingKind, size: int, stride: int, length: int) -> tuple[int, int]:
    """Returns the padding before and after one dimension of a map.

    Args:
      kind: `symmetric` pads both sides by half the kernel, as PyTorch's `padding=size // 2` does.
        `same` pads such that `length / stride` outputs (rounded up) result, with the larger half
        behind, as TensorFlow and XLA do.
      size: Length of the kernel.
      stride: Step between output positions.
      length: Length of the map.

    Returns:
      Number of zeros before and after.
    """
    if kind == "symmetric":
        return size // 2, size // 2
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def negative_paddings(program: str) -> list[str]:
    """Finds convolutions with negative padding in a program.

    XLA's CPU back end computes wrong results for such convolutions. They arise where a convolution
    of stride 1 is padded by more than its kernel's size minus 1: the gradient with respect to its
    input then has negative padding.

    Args:
      program: HLO text, such as `jitted.lower(...).compile().as_text()`.

    Returns:
      The lines of these convolutions.
    """
    return [
        line.strip()
        for line in program.splitlines()
        if " convolution(" in line and re.search(r"pad=[\d_x]*-", line)
    ]
