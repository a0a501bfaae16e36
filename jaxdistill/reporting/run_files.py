"""Names and paths of the report files in a run folder."""

from pathlib import Path

METRICS = "metrics.jsonl"
"""One JSON object per finished epoch."""
NONFINITE = "nonfinite.jsonl"
"""One JSON object per step whose loss or gradient was not finite."""
PROVENANCE = "provenance.json"
"""Data, files, sizes and environment of the run, in sections."""
TENSORBOARD = "tensorboard"
"""Folder of the TensorBoard event files."""
SAMPLES = "samples"
"""Folder of the sample grids, one image per epoch."""
PAGE = "report.html"
"""The HTML report."""
BEST_BY = ("student_miou", "agreement")
"""Scores that tell how good an epoch is; the first one that a run has is used."""

_PREFIX = "epoch_"


def sample_path(run: Path, epoch: int) -> Path:
    """Returns the path of the sample grid of an epoch (epochs count from 1)."""
    return run / SAMPLES / f"{_PREFIX}{epoch:03d}.png"


def sample_paths(run: Path) -> dict[int, Path]:
    """Returns the existing sample grids by epoch, sorted by epoch number.

    Sorting is numeric: `epoch_1000.png` comes after `epoch_999.png`.
    """
    found = [(path.stem.removeprefix(_PREFIX), path) for path in _grids(run)]
    return dict(sorted((int(number), path) for number, path in found if _is_number(number)))


def _grids(run: Path) -> list[Path]:
    return list((run / SAMPLES).glob(f"{_PREFIX}*.png"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16
