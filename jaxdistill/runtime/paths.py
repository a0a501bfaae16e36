"""Paths as a user writes them."""

from pathlib import Path

from jaxdistill.runtime.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """Returns a path in which `~` or `~USER` is replaced by the home folder.

    Args:
      path: The path.

    Raises:
      ConfigError: There is no such home folder (`invalid-path`).
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: there is no home folder {Path(path).parts[0]}; expected ~ or the ~NAME of a "
            f"user of this machine",
            code="invalid-path",
        ) from None
