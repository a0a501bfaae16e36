"""See `jaxdistill.torch_interop.convert_weights`; needs the extra `torch`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and runs the conversion.

    Args:
      arguments: The command's arguments; None takes those of the process.
    """
    from jaxdistill.torch_interop import convert_weights

    convert_weights.main(arguments)
