#!/usr/bin/env python3
"""What each part of distillation brings: equal runs that differ in one thing, as a table.

    python tools/ablate.py runs/ablation --data PATH/TO/COCO --teacher teacher.onnx \
        --feature NAME --deep NAME

Every row is trained with several seeds, in up to three regimes: with all masks, with the masks of a
few pictures only, the others going without, and without any. `table.md` and `table.json` are
written anew after every run; a gain is over the first row, paired by seed. It goes on where it was
stopped, also from a `table.json` alone.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ablation_data
import ablation_table

from jaxdistill import config
from jaxdistill.commands import train
from jaxdistill.reporting import run_files
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.teachers.onnx_graph import OnnxGraph

DESIGN = "design.json"
CONFIG = Path(__file__).parents[2] / "configs" / "ablation.yaml"
LOGITS = ("losses.kl=1.0",)
COLD = (*LOGITS, "losses.temperature={initial: 1, final: 1}")
HINTON = (*LOGITS, "losses.kl_scale=t2")
ORIGINAL = (*LOGITS, "losses.mse=0.5")
SPECIFIED = (
    *ORIGINAL,
    "losses.temperature={initial: 3, final: 1, schedule: cosine}",
    "training.clip={norm: 0.5, per: all}",
)


class Row(NamedTuple):
    """What a row changes."""

    title: str
    settings: tuple[str, ...]
    regimes: tuple[str, ...] = ("all", "few")


def rows(near: str, deep: str) -> dict[str, Row]:
    """By name; `near` is the teacher's tensor at stride 8, `deep` the one at stride 16."""

    def pair(tensor: str, tap: str, more: str = "") -> str:
        return f"{{tensor: '{tensor}', tap: {tap}, hidden_channels: null, resize: true{more}}}"

    def aligned(*pairs: str) -> tuple[str, ...]:
        return (f"features=[{', '.join(pairs)}]", "losses.feature=0.5")

    def tapped(more: str = "") -> tuple[str, ...]:
        return (*LOGITS, *aligned(pair(near, "decoder.1", more)))

    standard = ", standardize: true"
    near_and_deep = (pair(near, "decoder.1", standard), pair(deep, "decoder.0", standard))
    two = (*LOGITS, *aligned(*near_and_deep))
    specified = f"{{tensor: '{near}', tap: encoder.3, hidden_channels: 768, resize: true}}"
    cropped = "data.crop=0.4"
    freed = "student.unfreeze={from_epoch: 3, every: 1, stages: 3}"
    return {
        "masks": Row("no distillation (BCE + Dice)", ()),
        "logits": Row("logits (+ KL)", LOGITS),
        "cold": Row("logits, temperature 1", COLD),
        "hinton": Row("logits, KL times T squared", HINTON),
        "mse": Row("logits, as the original (+ KL + MSE)", ORIGINAL),
        "specified": Row("the specification as written", (*SPECIFIED, *aligned(specified))),
        "featureless": Row("... without its features", SPECIFIED),
        "rewired": Row(
            "... with a decoder tap, standardised, instead",
            (*SPECIFIED, *aligned(pair(near, "decoder.1", standard))),
        ),
        "tap": Row("logits + a decoder tap", tapped()),
        # U²-Net-p's tensor at stride 8 has a variance of 0.23, which standardising divides by.
        "weighed": Row("... weighed 4.4 times", tapped(", weight: 4.4")),
        "cosine": Row("... by cosine", tapped(", loss: cosine")),
        "cwd": Row("... by CWD", tapped(", loss: cwd")),
        "mgd": Row("... by MGD", tapped(", loss: mgd")),
        "standard": Row("... standardised", tapped(standard)),
        "attention": Row(
            "... and with attention to uncertainty", tapped(f"{standard}, attention: uncertainty")
        ),
        "scales": Row("... standardised, two scales", two),
        "learned": Row("... and with learned weights", (*two, "losses.feature_weights=learned")),
        "masks-unfrozen": Row("no distillation + unfreezing", (freed,)),
        "unfrozen": Row("logits + unfreezing", (*LOGITS, freed)),
        "best": Row("... and a decoder tap, standardised", (*tapped(standard), freed)),
        "masks-cropped": Row("no distillation + unfreezing + crops", (freed, cropped)),
        "logits-cropped": Row("logits + unfreezing + crops", (*LOGITS, freed, cropped)),
        "cropped": Row("... and a decoder tap, standardised", (*tapped(standard), freed, cropped)),
        "free": Row("label-free: logits", LOGITS, ("none",)),
        "free-cold": Row("label-free: logits, temperature 1", COLD, ("none",)),
        "free-unfrozen": Row("label-free: logits + unfreezing", (*LOGITS, freed), ("none",)),
        "free-cropped": Row("... and crops", (*LOGITS, freed, cropped), ("none",)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of runs and tables")
    parser.add_argument("--data", type=Path, required=True, help="a folder in COCO's layout")
    parser.add_argument("--teacher", type=Path, required=True, help="an ONNX file")
    parser.add_argument("--gives", default="probabilities", help="teacher.output")
    parser.add_argument("--feature", required=True, help="the teacher's tensor at stride 8")
    parser.add_argument("--deep", required=True, help="the teacher's tensor at stride 16")
    parser.add_argument("--few", type=int, default=16, help="pictures with masks, of few")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", help="names of rows; all of them if left out")
    regimes = list(ablation_table.REGIMES)
    parser.add_argument("--regimes", nargs="*", default=regimes, choices=regimes)
    parser.add_argument("--table", action="store_true", help="the table of what is there already")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every run")
    given = parser.parse_intermixed_args(arguments)
    known = rows(given.feature, given.deep)
    chosen = given.rows or list(known)
    if unknown := set(chosen) - known.keys():
        raise UserError(f"no row {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    table = {name: row for name, row in known.items() if name in chosen}
    if given.table and not given.folder.is_dir():
        raise UserError(f"there is no folder {given.folder.absolute()}")
    if not given.table:
        asked = _checked(given)
        found = ablation_table.read(given.folder, known)
        runs = list(_missing(given, table, found))
        for _, settings in runs:
            config.load(CONFIG, settings)
        # What was mistaken did not come so far: it would be the folder's for good.
        (given.folder / DESIGN).write_text(json.dumps(asked, indent=1), encoding="utf-8")
        for run, settings in runs:
            _train(run, settings)
            ablation_table.write(given.folder, known)
    ablation_table.write(given.folder, known)


def _checked(given: argparse.Namespace) -> dict[str, Any]:
    """What was asked for; the same for all runs of a folder, or their numbers do not compare.

    Raises:
      UserError: names what differs, or a tensor that is not there.
    """
    teacher = OnnxGraph(given.teacher)
    teacher.cut([given.feature, given.deep])
    asked = {
        "--data": str(given.data.absolute()),
        "--teacher": teacher.fingerprint,
        **{f"--{name}": getattr(given, name) for name in ("gives", "feature", "deep", "few")},
        "overrides": sorted(given.overrides),
    }
    file = given.folder / DESIGN
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else asked
    for name, value in asked.items():
        if before.get(name) != value:
            raise UserError(
                f"{given.folder}: {name} was {before.get(name)!r} and is {value!r}; runs that "
                f"differ in it do not compare: take another folder"
            )
    return asked


def _missing(
    given: argparse.Namespace, table: Mapping[str, Row], found: ablation_table.Found
) -> Iterator[tuple[Path, list[str]]]:
    """Runs that are not finished, seed by seed, so that every row is there early."""
    regimes = ablation_data.prepare(given.folder / "data", given.data.absolute(), given.few)
    common = [
        f"teacher.onnx={given.teacher}",
        f"teacher.output={given.gives}",
        f"detector.onnx={given.teacher}",
        "detector.normalization=imagenet",
        f"targets.cache={given.folder / 'targets'}",
        f"data.prepared={given.folder / 'prepared'}",
        *given.overrides,
    ]
    for seed in range(given.seeds):
        for name, row in table.items():
            for regime in (known for known in row.regimes if known in given.regimes):
                run = given.folder / regime / name / str(seed)
                distils = any(setting.startswith("losses.kl") for setting in row.settings)
                data = regimes[regime if distils or regime != "few" else "few-repeated"]
                settings = [*common, *data, *row.settings, f"seed={seed}", f"run={run}"]
                if str(seed) not in found[regime].get(name, {}):
                    yield run, settings


def _train(run: Path, settings: Sequence[str]) -> None:
    print(f"\n> {run}", flush=True)
    code = train.main(["--config", str(CONFIG), "--resume", *settings])
    if code:
        sys.exit(code)
    lines = (run / run_files.METRICS).read_text(encoding="utf-8").splitlines()
    last: dict[str, Any] = json.loads(lines[-1])
    (run / ablation_table.DONE).write_text(json.dumps(last["validation"]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(command(main))
