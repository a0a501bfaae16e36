"""Console output of a run: the line after each epoch and the closing table."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from jaxdistill.models.parameters import param_group
from jaxdistill.reporting.run_files import PAGE, sample_paths
from jaxdistill.runtime import distributed
from jaxdistill.runtime.warn_once import WarnOnce
from jaxdistill.types import Variables

log = logging.getLogger(__name__)

_SCORES = {"student_miou": "mIoU", "teacher_miou": "teacher", "agreement": "agreement"}


class UnfailingConsole(Console):
    """A console whose output may be lost, such as on a full disk or in a closed pipe.

    What a run prints is a report, and a failing report never ends a run. A failure is logged once
    for each cause.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._warn = WarnOnce(log)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as the base class does, and goes on after an `OSError`."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self._log(error)

    def on_broken_pipe(self) -> None:
        """Goes on where the base class would end the process."""
        self.quiet = True
        self._log(BrokenPipeError())

    def _log(self, error: OSError) -> None:
        message = f"the run's messages cannot be printed, training goes on: {error}"
        self._warn(error.errno, message)


def default_console() -> Console:
    """Returns a console that prints plain lines, in the main process only."""
    quiet = not distributed.is_main_process()
    return UnfailingConsole(soft_wrap=True, highlight=False, markup=False, quiet=quiet)


class ParameterSize(NamedTuple):
    """The size of a model."""

    parameters: int
    """Number of parameters."""
    bytes: int
    """Their size in float32."""

    def __str__(self) -> str:
        """Returns the size for people."""
        return f"{self.parameters / 1e6:.2f} M parameters, {self.bytes / 1e6:.1f} MB in float32"


def parameter_sizes(variables: Variables) -> dict[str, ParameterSize]:
    """Returns the size of the student without and with its projectors.

    The running statistics of BatchNorms do not count: they are no parameters, and disappear in an
    export.

    Args:
      variables: All variables of the student, by dotted path.

    Returns:
      Sizes by title, for a table.
    """
    sizes = {k: v.size for k, v in variables.items() if not k.endswith((".mean", ".var"))}
    whole = sum(sizes.values())
    alone = sum(size for name, size in sizes.items() if param_group(name) != "projectors")
    return {
        "student": ParameterSize(alone, 4 * alone),
        "student with projectors": ParameterSize(whole, 4 * whole),
    }


def epoch_line(epoch: int, epochs: int, record: Mapping[str, Any], losses: Sequence[str]) -> str:
    """Returns the line that a run prints after an epoch.

    Args:
      epoch: The epoch, counted from 1.
      epochs: The number of epochs of the run.
      record: The values of the epoch, as `MetricWriter.epoch` takes them; `train`, `validation` and
        `seconds` are required. `waits` are shown as shares of the training's seconds.
      losses: Names of the loss terms to show, in order; those missing from the record are left out.
    """
    train, validation = record["train"], record["validation"]
    terms = " ".join(f"{name} {train[name]:.3f}" for name in losses if name in train)
    scores = " ".join(
        f"{label} {validation[name]:.4f}" for name, label in _SCORES.items() if name in validation
    )
    seconds = sum(record["seconds"].values())
    waits = record.get("waits", {})
    shares = ", ".join(
        f"{name} {wait / record['seconds']['train']:.0%}" for name, wait in waits.items()
    )
    waited = f", training waited for {shares}" if shares else ""
    return f"epoch {epoch}/{epochs}: {terms} | validation: {scores} | {seconds:.1f} s{waited}"


def print_summary(
    console: Console,
    validation: Mapping[str, float],
    variables: Variables,
    images_per_second: float,
    run: Path,
) -> None:
    """Prints the table at the end of a run and the paths of its report.

    Args:
      console: Where to print.
      validation: Scores of the last epoch by name.
      variables: All variables of the student, by dotted path.
      images_per_second: Training speed.
      run: The run folder.
    """
    table = Table("", "", show_header=False, title="Result")
    for name in _SCORES:
        if name in validation:
            table.add_row(name.replace("_", " ").replace("miou", "mIoU"), f"{validation[name]:.4f}")
    for name, size in parameter_sizes(variables).items():
        table.add_row(name, str(size))
    table.add_row("training speed", f"{images_per_second:.2f} images/s")
    console.print(table)
    console.print(f"run: {run}", markup=False)
    console.print(f"report: {run / PAGE}", markup=False)
    samples = list(sample_paths(run).values())
    if samples:
        console.print(f"sample images: {samples[-1]}", markup=False)
