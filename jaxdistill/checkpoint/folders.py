"""The folders of a run's checkpoints: `STEP`, and what is renamed on the way.

`STEP.replaced` is kept until the step has been written again, `STEP.damaged` is kept for good, and
`STEP.old` is being removed.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxdistill.checkpoint.integrity import reading
from jaxdistill.runtime import distributed, files
from jaxdistill.runtime.files import retry_io

_REPLACED, _DAMAGED, _OLD = ".replaced", ".damaged", ".old"


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """Yields the folders of the checkpoints that were written completely, the newest first.

    One that was being replaced when its process died is in a folder `STEP.replaced`.

    Args:
      checkpoints: The folder of a run's checkpoints.

    Raises:
      RunError: It cannot be read at the moment (`checkpoint-io`).
    """
    by_step: dict[int, Path] = {}
    for path in _listed(checkpoints):
        if path.name.isdecimal():
            by_step[int(path.name)] = path
        elif path.name.removesuffix(_REPLACED).isdecimal():
            by_step.setdefault(step_of(path), path)
    for step in sorted(by_step, reverse=True):
        yield by_step[step]


def _listed(checkpoints: Path) -> list[Path]:
    def names() -> list[Path]:
        # `glob` would take a folder that may not be read for an empty one.
        return list(checkpoints.iterdir()) if checkpoints.exists() else []

    return reading(checkpoints, lambda: retry_io(names))


def step_of(folder: Path) -> int:
    """Returns the step after which a checkpoint was saved.

    Args:
      folder: One of the folders that `newest_first` yields.
    """
    return int(folder.name.removesuffix(_REPLACED))


def replaced_path(folder: Path) -> Path:
    """Returns where a checkpoint is kept until another one of the same step has been written.

    Args:
      folder: The folder of the checkpoint.
    """
    return folder.with_name(folder.name + _REPLACED)


def rename_damaged(folders: Iterable[Path]) -> None:
    """Renames damaged checkpoints to `STEP.damaged`, in the main process; all call it.

    Args:
      folders: The folders of the checkpoints.
    """
    if distributed.is_main_process():
        for folder in folders:
            target = folder.with_name(folder.name + _DAMAGED)
            number = 1
            while target.exists():
                number += 1
                target = folder.with_name(f"{folder.name}{_DAMAGED}-{number}")
            folder.rename(target)
            files.sync(folder.parent)
    distributed.barrier("damaged checkpoints renamed")


def recover(checkpoints: Path) -> None:
    """Undoes or completes what was interrupted: replacements, and removals.

    Args:
      checkpoints: The folder of a run's checkpoints.

    Raises:
      OSError: A folder cannot be renamed.
    """
    for old in checkpoints.glob(f"*{_OLD}"):
        remove(old)
    for replaced in checkpoints.glob(f"*{_REPLACED}"):
        folder = replaced.with_name(str(step_of(replaced)))
        if folder.exists():
            remove(replaced)
        else:
            replaced.rename(folder)


def remove(folder: Path) -> None:
    """Removes a checkpoint, at once to a reader; what fails is left to `recover`.

    Args:
      folder: The folder of the checkpoint.
    """
    old = folder if folder.name.endswith(_OLD) else folder.with_name(folder.name + _OLD)
    with contextlib.suppress(OSError):
        if folder != old:
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Waits until a checkpoint has reached the disk, which Orbax does for its arrays alone.

    Args:
      folder: The folder of the checkpoint.

    Raises:
      OSError: The disk reports an error.
    """
    files.sync(folder)
    for path, _, names in files.walk(folder):
        for name in names:
            files.sync(path / name)
        files.sync(path)
    files.sync(folder.parent)
