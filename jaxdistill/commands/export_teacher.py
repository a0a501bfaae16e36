"""See `jaxdistill.torch_interop.export_teacher`; needs the extra `torch`."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and runs the conversion.

    Args:
      arguments: The command's arguments; None takes those of the process.
    """
    from jaxdistill.torch_interop import export_teacher

    export_teacher.main(arguments)
