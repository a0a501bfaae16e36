"""The command line: `jaxdistill COMMAND ...`, or `python -m jaxdistill COMMAND ...`."""

import difflib
import importlib
import sys
from collections.abc import Callable, Sequence

from jaxdistill.runtime.errors import ConfigError, command
from jaxdistill.version import __version__

COMMANDS = {
    "train": "train a student",
    "evaluate": "measure a run or an ONNX file on a dataset",
    "predict": "write masks, overlays and cutouts of images",
    "export": "export the best student of a run to ONNX, .tflite, a web page or weights",
    "average": "write the mean of networks, or of the weights of runs, as one file",
    "check-data": "look at images and masks: counts, duplicates, a contact sheet",
    "cache-targets": "compute teacher outputs before training",
    "pseudo-label": "write masks of images on which several networks agree, to train on",
    "storage": "list and remove prepared data sets and target caches",
    "inspect": "show what an ONNX file takes and gives, and how to configure it",
    "rank-features": "rank the inner tensors of a network for feature distillation",
    "report": "write the HTML report of a run again",
    "convert-weights": "convert weights from and to PyTorch (needs the extra `torch`)",
    "export-teacher": "export a PyTorch teacher to ONNX (needs the extra `torch`)",
}
"""What each command does. `main` of `jaxdistill.commands.NAME` runs it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Only the module of that command is imported, so that `--help` and `--version` are fast.

    Args:
      arguments: Name and arguments of the command; None takes those of the process.

    Returns:
      The exit code: 2 after an error that the user can correct.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ("",)
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"jaxdistill {__version__}")
        return 0
    return command(lambda: _find(name)(rest))


def _find(name: str) -> Callable[[Sequence[str]], int | None]:
    """Returns the `main` of a command."""
    if name in COMMANDS:
        module = importlib.import_module(f"jaxdistill.commands.{name.replace('-', '_')}")
        found: Callable[[Sequence[str]], int | None] = module.main
        return found
    if not name:
        raise ConfigError(
            f"expected a command: {', '.join(COMMANDS)}; see jaxdistill --help",
            code="missing-command",
        )
    near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"unknown command {name!r}; {hint}available: {', '.join(COMMANDS)}", code="unknown-command"
    )


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxdistill COMMAND ...",
            "",
            "Trains small person-segmentation networks by distilling large ones.",
            "",
            *lines,
            "",
            "`jaxdistill COMMAND --help` describes a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
