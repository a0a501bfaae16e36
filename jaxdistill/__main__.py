"""The command line: `jaxdistill COMMAND ...`, or `python -m jaxdistill COMMAND ...`."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from jaxdistill.runtime.errors import ConfigError, command
from jaxdistill.version import __version__

COMMANDS = {
    "train": "trains a student",
    "evaluate": "measures a run's student or an ONNX file on images with masks",
    "predict": "finds people in images, and writes masks, overlays or cutouts",
    "export": "writes a run's student as an ONNX file or an Orbax checkpoint",
    "cache-targets": "computes teacher outputs before training",
    "rank-features": "measures which tensors of a network tell most about people",
    "report": "writes a run's report again",
    "convert-weights": "converts weights from and to PyTorch (extra torch)",
    "export-teacher": "exports a PyTorch teacher to ONNX (extra torch)",
}
"""Commands and what they do. Each is a module of `jaxdistill.commands` with a function `main`."""
_NEED_TORCH = ("convert-weights", "export-teacher")


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Runs a command; only its module is imported.

    Args:
      arguments: The command's name and its arguments; None takes those of the process.

    Returns:
      The exit code of the command.

    Raises:
      ConfigError: There is no such command (`unknown-command`), a plug-in cannot be imported
        (`plugin-missing`), or the command needs the extra `torch` (`extra-missing`).
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"{name}: unknown command; {hint}available: {', '.join(COMMANDS)}",
            code="unknown-command",
        )
    if name in _NEED_TORCH and importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f'{name} needs PyTorch: install the extra, `pip install "jaxdistill[torch]"`',
            code="extra-missing",
        )
    rest = _import_plugins(rest)
    module = importlib.import_module(f"jaxdistill.commands.{name.replace('-', '_')}")
    code: int | None = module.main(rest)
    return code


def run() -> int:
    """Runs the command of this process, and returns its exit code; errors become one line."""
    return command(main)


def _import_plugins(arguments: Sequence[str]) -> list[str]:
    """Imports the modules of `--plugin MODULE`, which register parts, and returns the rest."""
    rest, remaining = [], iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option != "--plugin":
            rest.append(argument)
            continue
        plugin = value if equals else next(remaining, "")
        sys.path.insert(0, "")  # a module in the working directory
        try:
            importlib.import_module(plugin)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"--plugin {plugin}: cannot be imported ({error}); name a module that is installed "
                f"or lies in the working directory",
                code="plugin-missing",
            ) from None
        finally:
            sys.path.pop(0)
    return rest


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = (f"  {name:{width}}{text}" for name, text in COMMANDS.items())
    return (
        "usage: jaxdistill COMMAND [--plugin MODULE] ...\n\n"
        "Trains small person-segmentation networks by distilling large ones.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "`jaxdistill COMMAND --help` lists the options of a command. `--plugin MODULE` imports a\n"
        "module that registers encoders, losses, data sources, ... of your own."
    )


if __name__ == "__main__":
    sys.exit(run())
