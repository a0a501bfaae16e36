"""The metric writer: `metrics.jsonl`, TensorBoard curves, sample grids and the HTML report."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from jaxdistill.reporting import html
from jaxdistill.reporting.run_files import (
    METRICS,
    NONFINITE,
    PROVENANCE,
    SAMPLES,
    TENSORBOARD,
    sample_path,
)
from jaxdistill.reporting.tensorboard import EventWriter
from jaxdistill.reporting.trackers import Trackers
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import OutputError, UserError, first_line

EPOCH_VALUES = (
    "train",
    "validation",
    "seconds",
    "images_per_second",
    "waits",
    "skipped_steps",
    "cache",
)
"""Values of an epoch, in `metrics.jsonl` and in the metadata of its checkpoint."""


class MetricWriter:
    """Writes the report files of a run.

    Every method raises only `OutputError`, or a group of them, when something cannot be written,
    and leaves no file half-written, so that a caller can go on after a failed report. A line of
    metrics that could not be written is written with the next one.

    Args:
      run: The run folder; it is created.
      epochs: The number of finished epochs. TensorBoard curves after it are drawn anew.
      trackers: Experiment trackers that receive every epoch, too.

    Raises:
      OutputError: The run folder cannot be created (`report-not-written`).
    """

    _tensorboard: EventWriter | None = None

    def __init__(self, run: Path, epochs: int, trackers: Trackers | None = None) -> None:
        self._run, self._epochs, self._trackers = run, epochs, trackers
        self.unwritten: list[Mapping[str, Any]] = []
        """Lines of `metrics.jsonl` that could not be written yet. A checkpoint keeps them."""
        self._resumed: tuple[int, int] | None = None  # where the files have to be cut
        with _reported(run):
            run.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # `epoch` tries again, and reports it
            self._open_tensorboard()

    def run_metadata(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the run's metadata into `provenance.json`.

        Args:
          sections: Values that hold for the whole run, by section title and name.

        Raises:
          OutputError: The file cannot be written (`report-not-written`).
        """
        with _reported(self._run):
            files.write_atomic(self._run / PROVENANCE, json.dumps(sections, indent=1).encode())

    def epoch(self, number: int, values: Mapping[str, Any], grid: Image.Image | None) -> None:
        """Writes the results of an epoch.

        The line of metrics comes first, then the sample grid, the TensorBoard points and the HTML
        report; each is written even where another one fails.

        Args:
          number: The epoch, counted from 1.
          values: Numbers, or groups of numbers by name, such as `{"train": {"total": 2.5}}`.
          grid: The sample grid, or None.

        Raises:
          OutputError: A file cannot be written (`report-not-written`), or a file of the run from
            which the HTML report is made is damaged (the codes of `reporting.html.render`).
          ExceptionGroup: Several parts failed so.
        """
        errors = []
        for write in (self._write_metrics, self._write_grid, self._write_curves, self._write_page):
            try:
                with _reported(self._run):
                    write(number, values, grid)
            except UserError as error:
                errors.append(error)
        if self._trackers is not None:
            self._trackers.epoch(number, dict(_scalars(values)), grid)
        if len(errors) > 1:
            raise ExceptionGroup("several parts of the report failed", errors)
        if errors:
            raise errors[0]

    def continue_after(self, epoch: int, step: int, metadata: Mapping[str, Any]) -> None:
        """Brings the report files to where a resumed run goes on.

        Lines of later epochs are removed. The line of an epoch whose checkpoint was saved, but not
        its report, is written. Where that fails, it is tried again before the next line is written.

        Args:
          epoch: The number of finished epochs; see `truncate_after`.
          step: The number of finished steps.
          metadata: Metadata of the checkpoint that the run goes on from: the values of its epoch,
            and under `unwritten` the lines that were not written before it; empty without one.

        Raises:
          OutputError: A file cannot be written (`report-not-written`).
        """
        self._resumed = epoch, step
        self.unwritten = [*metadata.get("unwritten", [])]
        record = {name: metadata[name] for name in EPOCH_VALUES if name in metadata}
        if "validation" in record:  # else the checkpoint is within an epoch
            self.unwritten.append({"epoch": epoch, **record})
        with _reported(self._run):
            self._write_lines()

    def nonfinite(self, values: Mapping[str, Any]) -> None:
        """Adds a line to `nonfinite.jsonl` about a step that was left out.

        Args:
          values: Plain values; `step` is required, for `truncate_after`.

        Raises:
          OutputError: The file cannot be written (`report-not-written`).
        """
        with _reported(self._run):
            _append(self._run / NONFINITE, values)

    def close(self) -> None:
        """Closes trackers and the TensorBoard file, and writes what could not be written before.

        Raises:
          OutputError: Its last events, or the lines, cannot be written (`report-not-written`).
        """
        if self._trackers is not None:
            self._trackers.close()
        with _reported(self._run):
            try:
                self._write_lines()
            finally:
                if self._tensorboard is not None:
                    self._tensorboard.close()

    def _write_metrics(
        self, number: int, values: Mapping[str, Any], grid: Image.Image | None
    ) -> None:
        self.unwritten.append({"epoch": number, **values})
        self._write_lines()

    def _write_lines(self) -> None:
        if self._resumed is not None:
            truncate_after(self._run, *self._resumed)
            written = _epochs(self._run / METRICS)
            self.unwritten = [line for line in self.unwritten if line["epoch"] not in written]
            self._resumed = None
        while self.unwritten:
            _append(self._run / METRICS, self.unwritten[0])
            del self.unwritten[0]

    def _write_grid(self, number: int, values: Mapping[str, Any], grid: Image.Image | None) -> None:
        if grid is not None:
            (self._run / SAMPLES).mkdir(exist_ok=True)
            files.write_atomic(sample_path(self._run, number), _png(grid))

    def _write_curves(
        self, number: int, values: Mapping[str, Any], grid: Image.Image | None
    ) -> None:
        tensorboard = self._open_tensorboard()
        if grid is not None:
            tensorboard.add_image("samples", grid, number)
        for name, value in _scalars(values):
            tensorboard.add_scalar(name, value, number)
        tensorboard.flush()

    def _write_page(self, number: int, values: Mapping[str, Any], grid: Image.Image | None) -> None:
        html.write(self._run)

    def _open_tensorboard(self) -> EventWriter:
        if self._tensorboard is None:
            self._tensorboard = EventWriter(self._run / TENSORBOARD, purge_step=self._epochs + 1)
        return self._tensorboard


class NullWriter(MetricWriter):
    """Writes nothing; the processes of a run other than the main process use it."""

    def __init__(self) -> None:
        self.unwritten = []

    def run_metadata(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Does nothing."""

    def epoch(self, number: int, values: Mapping[str, Any], grid: Image.Image | None) -> None:
        """Does nothing."""

    def nonfinite(self, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def truncate_after(run: Path, epoch: int, step: int) -> None:
    """Removes the lines that a resumed run will write again, and lines that were cut off.

    Args:
      run: The run folder.
      epoch: The number of finished epochs; `metrics.jsonl` keeps the lines of these.
      step: The number of finished steps; `nonfinite.jsonl` keeps the lines of earlier steps.

    Raises:
      OutputError: A file cannot be written (`report-not-written`).
    """
    with _reported(run):
        files.retry_io(lambda: _keep_lines(run / METRICS, lambda line: line["epoch"] <= epoch))
        files.retry_io(lambda: _keep_lines(run / NONFINITE, lambda line: line["step"] < step))


@contextlib.contextmanager
def _reported(run: Path) -> Iterator[None]:
    """Raises an error of the operating system as an `OutputError`."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a file that was closed, a value of no JSON
        place = getattr(error, "filename", None) or run
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OutputError(
            f"{place}: the report cannot be written: {reason}", code="report-not-written"
        ) from error


def _append(path: Path, values: Mapping[str, Any]) -> None:
    """Adds a line of JSON, whole or not at all; transient errors are retried."""
    line = json.dumps(values).encode() + b"\n"
    files.retry_io(lambda: _append_once(path, line))


def _append_once(path: Path, line: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            file.truncate(size)
            raise


def _keep_lines(path: Path, wanted: Callable[[Any], bool]) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if wanted(json.loads(line)) and line.endswith("\n"):
                kept.append(line)
    files.write_atomic(path, "".join(kept).encode())


def _epochs(path: Path) -> set[int]:
    """Returns the epochs that have a line; `_keep_lines` has left whole lines only."""
    if not path.exists():
        return set()
    return {json.loads(line)["epoch"] for line in path.read_text(encoding="utf-8").splitlines()}


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _scalars(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers in `values` by their path, such as `train/total`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
