"""The sample grid: images beside their masks, as one image file."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

Map = Float[np.ndarray, "h w 1"]

SAMPLES = 4
"""Number of rows of a run's sample grid."""
COLUMNS = ("image", "ground truth", "teacher", "student", "difference")

_GAP = 6  # pixels between cells
_HEADER = 24  # pixels above the cells, for the column titles
_LONGEST = 320  # pixels of the longer side of a cell
_ADDED, _MISSED = (0.9, 0.1, 0.1), (0.1, 0.3, 0.95)


def sample_grid(
    images: Iterable[Float[np.ndarray, "h w 3"]],
    masks: Iterable[Map] | None,
    teacher: Iterable[Map] | None,
    student: Iterable[Map],
) -> Image.Image:
    """Draws one row per example, with the columns `COLUMNS`.

    Columns without values are left out. The last column compares the student with the teacher, or
    with the ground truth where there is no teacher: red is a person for the student only, blue for
    the other one only.

    Args:
      images: RGB in [0, 1], each of its own size.
      masks: Ground truth in {0, 1}; None where it is unknown.
      teacher: Logits of the teacher; None without one. One of `masks` and `teacher` is required.
      student: Logits of the student.

    Returns:
      An RGB image.
    """
    references = [masks, None if teacher is None else map(_probability, teacher)]
    columns = dict(zip(COLUMNS, (images, *references, map(_probability, student)), strict=False))
    known = {title: column for title, column in columns.items() if column is not None}
    rows = [
        [*cells, _difference(cells[0], cells[-1] > 0.5, cells[-2] > 0.5)]
        for cells in zip(*known.values(), strict=True)
    ]
    return draw_grid([*known, COLUMNS[-1]], rows)


def _probability(logits: Map) -> Map:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _difference(image: np.ndarray, student: np.ndarray, reference: np.ndarray) -> np.ndarray:
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1) * 0.5 + 0.25
    added, missed = student & ~reference, reference & ~student
    return np.where(added, _ADDED, np.where(missed, _MISSED, grey))


def draw_grid(
    titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]], longest: int = _LONGEST
) -> Image.Image:
    """Draws the cells of each row, which have one size, below the titles of their columns.

    Args:
      titles: One for each column.
      rows: Cells of each row: values in [0, 1] of shape (h, w, 3) or (h, w, 1).
      longest: Pixels of the longer side of a cell, at most.

    Returns:
      An RGB image.
    """
    cells = [[_cell(values, longest) for values in row] for row in rows]
    width = max(row[0].width for row in cells)
    height = sum(row[0].height + _GAP for row in cells)
    size = len(titles) * (width + _GAP) - _GAP, _HEADER + height - _GAP
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        left, top = column * (width + _GAP), _HEADER
        pen.text((left + 2, 3), title, fill="black", font=ImageFont.load_default(15))
        for row in cells:
            grid.paste(row[column], (left, top))
            top += row[column].height + _GAP
    return grid


def _cell(values: np.ndarray, longest: int) -> Image.Image:
    levels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    cell = Image.fromarray(np.repeat(levels, 3, -1) if levels.shape[-1] == 1 else levels)
    cell.thumbnail((longest, longest))
    return cell
