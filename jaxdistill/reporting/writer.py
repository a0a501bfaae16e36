"""What a run leaves for people to read: metrics, curves, sample pictures, and a closing table."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from tensorboardX import SummaryWriter

from jaxdistill.models.student import param_group
from jaxdistill.reporting import html as html_lib
from jaxdistill.types import Variables

Map = Float[np.ndarray, "b h w 1"]
SAMPLES = 4
METRICS, FAULTS = "metrics.jsonl", "nonfinite.jsonl"
_COLUMNS = ("picture", "ground truth", "teacher", "student", "difference")
_GAP, _HEADER, _LONGEST = 6, 24, 320


class Report:
    """Writes into the run's folder: `metrics.jsonl`, `facts.json`, `tensorboard/`, `samples/`,
    and the page made of them.

    Args:
      epochs: how many the run has behind it; curves of later ones are drawn anew.
    """

    def __init__(self, run: Path, epochs: int) -> None:
        self._run = run
        (run / "samples").mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=epochs + 1)

    def facts(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """What holds for the whole run, for its page."""
        (self._run / "facts.json").write_text(json.dumps(sections, indent=1), encoding="utf-8")

    def epoch(self, number: int, values: Mapping[str, Any], sheet: Image.Image | None) -> None:
        """One line of JSON, a point on each curve, the sample pictures, and the page anew.

        Epochs count from 1 here.
        """
        with (self._run / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": number, **values}) + "\n")
        assert sheet is not None
        sheet.save(self._run / "samples" / f"epoch_{number:03d}.png")
        for name, value in _flat(values):
            self._board.add_scalar(name, value, number)
        self._board.add_image("samples", np.asarray(sheet), number, dataformats="HWC")
        self._board.flush()
        html_lib.write(self._run)

    def fault(self, values: Mapping[str, Any]) -> None:
        """A step from which nothing was learnt: one line of JSON."""
        with (self._run / FAULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._board.close()


class Silence(Report):
    """The report of a process that leaves it to another one."""

    def __init__(self) -> None:
        pass

    def facts(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def epoch(self, number: int, values: Mapping[str, Any], sheet: Image.Image | None) -> None:
        pass

    def fault(self, values: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def forget_after(run: Path, epoch: int, step: int) -> None:
    """Drops the lines of what a resumed run will do again, and lines that were cut off."""
    _keep_lines(run / METRICS, lambda line: line["epoch"] <= epoch)
    _keep_lines(run / FAULTS, lambda line: line["step"] < step)


def _keep_lines(path: Path, wanted: Callable[[Any], bool]) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if wanted(json.loads(line)) and line.endswith("\n"):
                kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def sample_sheet(
    images: Float[np.ndarray, "b h w 3"], masks: Map | None, teacher: Map | None, student: Map
) -> Image.Image:
    """A row per picture: itself, ground truth, teacher, student, and where those two differ.

    Images and masks in [0, 1]; teacher and student as logits. Masks or teacher may be missing, but
    not both. In the last column red is what the student adds to the teacher's mask (to the ground
    truth without a teacher), blue what it misses.
    """
    theirs = None if teacher is None else _probability(teacher)
    given = dict(zip(_COLUMNS, (images, masks, theirs, _probability(student)), strict=False))
    known = {title: column for title, column in given.items() if column is not None}
    rows = [
        [*cells, _difference(cells[0], cells[-1] > 0.5, cells[-2] > 0.5)]
        for cells in zip(*known.values(), strict=True)
    ]
    return _draw([*known, _COLUMNS[-1]], rows)


def _probability(logits: Map) -> Map:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _difference(image: np.ndarray, own: np.ndarray, reference: np.ndarray) -> np.ndarray:
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1) * 0.5 + 0.25
    added, missed = own & ~reference, reference & ~own
    return np.where(added, (0.9, 0.1, 0.1), np.where(missed, (0.1, 0.3, 0.95), grey))


def _draw(titles: Sequence[str], rows: list[list[np.ndarray]]) -> Image.Image:
    tiles = [[_tile(cell) for cell in row] for row in rows]
    width, height = tiles[0][0].size
    sheet = Image.new(
        "RGB",
        (
            len(titles) * (width + _GAP) - _GAP,
            _HEADER + len(rows) * (height + _GAP) - _GAP,
        ),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        place = (column * (width + _GAP) + 2, 3)
        pen.text(place, title, fill="black", font=ImageFont.load_default(15))
        for row, cells in enumerate(tiles):
            sheet.paste(cells[column], (column * (width + _GAP), _HEADER + row * (height + _GAP)))
    return sheet


def _tile(cell: np.ndarray) -> Image.Image:
    values = (np.clip(cell, 0, 1) * 255).round().astype(np.uint8)
    tile = Image.fromarray(np.repeat(values, 3, -1) if values.shape[-1] == 1 else values)
    tile.thumbnail((_LONGEST, _LONGEST))
    return tile


def sizes(variables: Variables) -> dict[str, tuple[int, int]]:
    """Parameters and float32 bytes of the student with and without projectors."""
    with_projectors = sum(value.size for value in variables.values())
    without = sum(v.size for k, v in variables.items() if param_group(k) != "projectors")
    return {
        "student": (without, 4 * without),
        "student with projectors": (with_projectors, 4 * with_projectors),
    }


def print_summary(
    console: Console,
    validation: Mapping[str, float],
    variables: Variables,
    images_per_second: float,
    run: Path,
) -> None:
    """The table at the end of a run."""
    table = Table("", "", show_header=False, title="Result")
    for name in ("student_miou", "teacher_miou", "agreement"):
        if name in validation:
            table.add_row(name.replace("_", " ").replace("miou", "mIoU"), f"{validation[name]:.4f}")
    for name, (count, size) in sizes(variables).items():
        table.add_row(name, f"{count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB in float32")
    table.add_row("training speed", f"{images_per_second:.2f} images/s")
    console.print(table)
    console.print(f"run: {run}", markup=False)
    console.print(f"its page: {run / html_lib.NAME}", markup=False)
    console.print(f"sample pictures: {max((run / 'samples').iterdir())}", markup=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    scalars = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            scalars += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            scalars.append((f"{prefix}{name}", float(value)))
    return scalars
