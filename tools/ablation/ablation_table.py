"""The results of `ablate.py`'s runs: means, spreads, and differences paired by seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import runs

from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.files import write_atomic

DONE, TABLE = "ablation.json", "table.json"
BASE = "masks"
MEASURES = {
    "student_miou": "mIoU",
    "student_iou": "person IoU",
    "student_boundary_iou": "boundary IoU",
    "agreement": "agreement",
}
REGIMES = {"all": "all masks", "few": "few masks", "none": "no masks"}

DESIGN, SETTINGS = "design", "settings"
"""Keys of `table.json` beside the regimes, and of a run beside its scores: what the runs share (see
`runs.py`; a table may know a part of it only), and the overrides of the row."""

Found = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Scores by regime, row and seed."""


def write(folder: Path, rows: Mapping[str, Any]) -> None:
    """Writes `table.json` and `table.md` from the finished runs."""
    found = read(folder, rows)
    designs = [runs.read(folder / TABLE).get(DESIGN)] if (folder / TABLE).exists() else []
    if (folder / runs.DESIGN).exists():
        designs.append(runs.read(folder / runs.DESIGN))
    design = next(filter(None, designs), None)
    runs.save(folder / TABLE, {DESIGN: design, **found} if design else found)
    parts = [_table(regime, found[regime], rows) for regime in REGIMES if found[regime]]
    write_atomic(folder / "table.md", "\n\n".join(parts) + "\n")


def read(folder: Path, rows: Mapping[str, Any]) -> Found:
    """Returns the scores after the last epoch, of the runs in the folder and in `table.json`."""
    table = folder / TABLE
    kept = runs.read(table) if table.exists() else {}
    found: Found = {}
    for regime in REGIMES:
        found[regime] = {}
        before = kept.get(regime, {})
        for row in dict.fromkeys([*rows, *before]):  # also rows of another version
            seeds = dict(before.get(row, {}))
            for path in (folder / regime / row).glob(f"*/{DONE}"):
                seeds[path.parent.name] = runs.read(path)
            if seeds:
                found[regime][row] = dict(sorted(seeds.items()))
    return found


def check(folder: Path, design: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    """Compares with what the runs in `table.json` were made with, as far as it says so.

    Args:
      folder: The folder of the runs.
      design: What the runs share that are to be made.
      rows: The rows that are to be made.

    Raises:
      ConfigError: Something differs (`design-differs`), or nothing is known (`unknown-design`).
    """
    table = folder / TABLE
    if not table.exists():
        return
    known = runs.read(table).get(DESIGN, {})
    if not known and not (folder / runs.DESIGN).exists():
        raise ConfigError(
            f"{table} does not say what its runs were made with; choose another folder, or add "
            f'what you know of it, such as "{DESIGN}": {{"data.mask_resize": "nearest"}}',
            code="unknown-design",
        )
    runs.compare(table, known, design, known)
    for made in read(folder, rows).values():
        for name in made.keys() & rows.keys():
            for seed, scores in made[name].items():
                now = {SETTINGS: list(rows[name].settings)}
                runs.compare(table / name / seed, scores, now, scores.keys() & now.keys())


def _table(
    regime: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]], rows: Mapping[str, Any]
) -> str:
    teacher = next(iter(next(iter(found.values())).values())).get("teacher_miou")
    lines = [
        f"**{REGIMES[regime]}** (teacher: mIoU {teacher:.4f})",
        "",
        f"| row | seeds | {' | '.join(MEASURES.values())} | mIoU, gain |",
        "|---|---|" + "---|" * (1 + len(MEASURES)),
    ]
    base = found.get(BASE, {})
    for name, seeds in found.items():
        cells = [spread([one[measure] for one in seeds.values()]) for measure in MEASURES]
        both = seeds.keys() & base.keys()
        gains = [seeds[seed]["student_miou"] - base[seed]["student_miou"] for seed in sorted(both)]
        gain = spread(gains, sign=True) if gains and name != BASE else ""
        title = rows[name].title if name in rows else name
        lines.append(f"| {title} | {len(seeds)} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Returns mean and standard deviation of a score's values over the seeds."""
    shown = f"{mean(values):+.4f}" if sign else f"{mean(values):.4f}"
    return shown + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
