"""The results of `ablate.py`'s runs: means, spreads, and differences paired by seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

DONE, TABLE = "ablation.json", "table.json"
BASE = "masks"
MEASURES = {
    "student_miou": "mIoU",
    "student_iou": "person IoU",
    "student_boundary_iou": "boundary IoU",
    "agreement": "agreement",
}
REGIMES = {"all": "all masks", "few": "few masks", "none": "no masks"}

Found = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Scores by regime, row and seed."""


def write(folder: Path, rows: Mapping[str, Any]) -> None:
    """Writes `table.json` and `table.md` from the finished runs."""
    found = read(folder, rows)
    (folder / TABLE).write_text(json.dumps(found, indent=1), encoding="utf-8")
    parts = [_table(regime, found[regime], rows) for regime in REGIMES if found[regime]]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def read(folder: Path, rows: Mapping[str, Any]) -> Found:
    """Returns the scores after the last epoch, of the runs in the folder and in `table.json`."""
    table = folder / TABLE
    kept = json.loads(table.read_text(encoding="utf-8")) if table.exists() else {}
    found: Found = {}
    for regime in REGIMES:
        found[regime] = {}
        for row in rows:
            seeds = dict(kept.get(regime, {}).get(row, {}))
            for path in (folder / regime / row).glob(f"*/{DONE}"):
                seeds[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
            if seeds:
                found[regime][row] = dict(sorted(seeds.items()))
    return found


def _table(
    regime: str, found: Mapping[str, Mapping[str, Mapping[str, float]]], rows: Mapping[str, Any]
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
        lines.append(f"| {rows[name].title} | {len(seeds)} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Returns mean and standard deviation of a score's values over the seeds."""
    shown = f"{mean(values):+.4f}" if sign else f"{mean(values):.4f}"
    return shown + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
