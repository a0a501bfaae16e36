"""A check of programs for padding of convolutions that XLA gets wrong."""

import re


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
