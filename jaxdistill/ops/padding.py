"""Padding of convolutions."""

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
