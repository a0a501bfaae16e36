"""What the commands of `jaxdistill` have in common: parser, `--plugin`, console, output file."""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, OutputError


class CommandParser(argparse.ArgumentParser):
    """Parses the command line of one command, and reports an error in one line.

    Every command has the option `--plugin`, which imports a module while the arguments are parsed.

    Args:
      name: The command's name, such as `train`.
      description: What the command does, for `--help`.
    """

    def __init__(self, name: str, description: str | None) -> None:
        super().__init__(
            prog=f"jaxdistill {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument(
            "--plugin",
            action=_ImportPlugin,
            metavar="MODULE",
            help="import a module that registers encoders, decoders, losses, data sources or "
            "exporters; may be repeated",
        )

    def error(self, message: str) -> NoReturn:
        """Raises the error, for which argparse would print the usage and exit.

        Args:
          message: What is wrong with the command line.

        Raises:
          ConfigError: Always (`command-line`).
        """
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help", code="command-line")


class _ImportPlugin(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        import_plugin(values)


def import_plugin(module: str) -> None:
    """Imports a module that registers implementations.

    The working directory is searched as well, as it is by `python -m`.

    Args:
      module: The module's dotted name.

    Raises:
      ConfigError: There is no module of that name (`plugin-missing`).
    """
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module != missing and not module.startswith(f"{missing}."):
            raise  # the module exists, and imports one that does not
        raise ConfigError(
            f"--plugin {module}: there is no module {missing!r}; expected a dotted name that "
            f"`import` finds, in the working directory or among the installed packages",
            code="plugin-missing",
        ) from None
    except ValueError:  # an empty name, for example
        raise ConfigError(
            f"--plugin {module}: expected a module's dotted name, such as my_encoders",
            code="plugin-missing",
        ) from None


def import_torch_interop(module: str, command: str) -> Any:
    """Imports a module of `jaxdistill.torch_interop`; see `import_interop`."""
    return import_interop("torch", module, command)


def import_interop(extra: str, module: str, command: str) -> Any:
    """Imports a module that needs an extra.

    Args:
      extra: The extra, such as `torch`, which the package `jaxdistill.torch_interop` needs.
      module: The module's name in that package.
      command: The command that needs it, for the message.

    Returns:
      The module.

    Raises:
      ConfigError: A package of the extra is not installed (`extra-missing`).
    """
    try:
        return importlib.import_module(f"jaxdistill.{extra}_interop.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "jaxdistill":
            raise
        raise ConfigError(
            f"jaxdistill {command}: the Python package {error.name!r} is not installed; install "
            f"the extra `{extra}`: pip install 'jaxdistill[{extra}]'",
            code="extra-missing",
        ) from None


def path_ending(*suffixes: str) -> Callable[[str], Path]:
    """Returns the type of an argument that is a file's name.

    Args:
      *suffixes: The endings that it may have.
    """

    def parse(text: str) -> Path:
        if Path(text).suffix not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} should end in {' or '.join(suffixes)}")
        return Path(text)

    return parse


def check_output(source: Path | str, output: Path) -> None:
    """Checks that a command does not replace the file that it reads.

    Args:
      source: The file; it may be a name that is no file.
      output: The file to write.

    Raises:
      OutputError: They are the same file (`output-exists`).
    """
    if output.exists() and Path(source).exists() and output.samefile(source):
        raise OutputError(
            f"{output} is the file to convert; choose another output", code="output-exists"
        )


def console(*, stderr: bool = False) -> Console:
    """Returns the console of a command, which prints text as it is.

    Args:
      stderr: Print to stderr instead of stdout.
    """
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False)


def write_output(path: Path, content: bytes | str) -> None:
    """Writes the file of `--output`, completely or not at all, and makes its folder.

    A device or a pipe, such as `/dev/null`, is written to and not replaced.

    Args:
      path: The file.
      content: The whole content; text is encoded as UTF-8.

    Raises:
      OutputError: The file cannot be written (`cannot-write`).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            files.write_atomic(path, content)
    except OSError as error:
        raise OutputError(
            f"{path.absolute()}: cannot write: {error.strerror}; choose another --output",
            code="cannot-write",
        ) from None
