#!/usr/bin/env python3
"""Measures what each part of distillation contributes, with runs that differ in one setting.

    python tools/ablation/ablate.py runs/ablation --data PATH/TO/COCO --teacher teacher.onnx \
        --feature NAME --deep NAME

Every row is trained with several seeds, in up to three regimes: with all masks, with masks for a
few images only, and without masks. `table.md` and `table.json` are written after every run; gains
are relative to the first row, paired by seed. The command continues where it was stopped, also from
`table.json` alone, and refuses other settings than those of the runs that are there.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ablation_data
import ablation_table
import runs

from jaxdistill import config
from jaxdistill.runtime.errors import ConfigError, command
from jaxdistill.teachers.onnx_graph import OnnxGraph

CONFIG = Path(__file__).parents[2] / "configs" / "ablation.yaml"
LOGITS = ("losses.kl=1.0",)
COLD = (*LOGITS, "losses.temperature={initial: 1, final: 1}")
HINTON = (*LOGITS, "losses.kl_scale=t2")
ORIGINAL = (*LOGITS, "losses.mse=0.5")
SPECIFICATION = (
    *ORIGINAL,
    "losses.temperature={initial: 3, final: 1, schedule: cosine}",
    "training.clip={norm: 0.5, per: all}",
)


class Row(NamedTuple):
    """A row of the table."""

    title: str
    settings: tuple[str, ...]
    """Overrides of the configuration."""
    regimes: tuple[str, ...] = ("all", "few")


def rows(near: str, deep: str) -> dict[str, Row]:
    """Returns the rows by name.

    Args:
      near: The teacher's tensor at stride 8.
      deep: The teacher's tensor at stride 16.
    """

    def pair(tensor: str, tap: str, more: str = "") -> str:
        return f"{{tensor: '{tensor}', tap: {tap}, hidden_channels: null, resize: true{more}}}"

    def aligned(*pairs: str) -> tuple[str, ...]:
        return (f"features=[{', '.join(pairs)}]", "losses.feature=0.5")

    def tapped(more: str = "") -> tuple[str, ...]:
        return (*LOGITS, *aligned(pair(near, "decoder.1", more)))

    standard = ", standardize: true"
    near_and_deep = (pair(near, "decoder.1", standard), pair(deep, "decoder.0", standard))
    two = (*LOGITS, *aligned(*near_and_deep))
    reference = f"{{tensor: '{near}', tap: encoder.3, hidden_channels: 768, resize: true}}"
    cropped = "data.crop=0.4"
    unfreezing = "student.unfreeze={from_epoch: 3, every: 1, stages: 3}"
    best = (*tapped(standard), unfreezing)
    average = "training.ema=0.98"  # reaches back some 50 steps
    # Neither can be used with a target cache.
    pasted = ("data.copy_paste=0.5", "targets.cache=null")
    scaled = ("data.sizes=[256, 320, 384]", "targets.cache=null")
    return {
        "masks": Row("no distillation (BCE + Dice)", ()),
        "logits": Row("logits (+ KL)", LOGITS),
        "cold": Row("logits, temperature 1", COLD),
        "hinton": Row("logits, KL times T squared", HINTON),
        "mse": Row("logits, as the original (+ KL + MSE)", ORIGINAL),
        "specified": Row("the specification as written", (*SPECIFICATION, *aligned(reference))),
        "featureless": Row("... without its features", SPECIFICATION),
        "rewired": Row(
            "... with a decoder tap, standardised, instead",
            (*SPECIFICATION, *aligned(pair(near, "decoder.1", standard))),
        ),
        "tap": Row("logits + a decoder tap", tapped()),
        # The variance of U²-Net-p's tensor at stride 8 is 0.23; standardisation divides by it.
        "weighed": Row("... weighted 4.4 times", tapped(", weight: 4.4")),
        "cosine": Row("... by cosine", tapped(", loss: cosine")),
        "cwd": Row("... by CWD", tapped(", loss: cwd")),
        "mgd": Row("... by MGD", tapped(", loss: mgd")),
        "standard": Row("... standardised", tapped(standard)),
        "attention": Row(
            "... and with attention to uncertainty", tapped(f"{standard}, attention: uncertainty")
        ),
        "scales": Row("... standardised, two scales", two),
        "learned": Row("... and with learned weights", (*two, "losses.feature_weights=learned")),
        "masks-unfrozen": Row("no distillation + unfreezing", (unfreezing,)),
        "unfrozen": Row("logits + unfreezing", (*LOGITS, unfreezing)),
        "best": Row("... and a decoder tap, standardised", best),
        "ema": Row("no distillation + unfreezing + EMA", (unfreezing, average)),
        "best-ema": Row("logits + unfreezing + a decoder tap + EMA", (*best, average)),
        "copy-paste": Row("no distillation + unfreezing + copy-paste", (unfreezing, *pasted)),
        "multi-scale": Row("no distillation + unfreezing + three sizes", (unfreezing, *scaled)),
        "masks-cropped": Row("no distillation + unfreezing + crops", (unfreezing, cropped)),
        "logits-cropped": Row("logits + unfreezing + crops", (*LOGITS, unfreezing, cropped)),
        "cropped": Row(
            "... and a decoder tap, standardised", (*tapped(standard), unfreezing, cropped)
        ),
        "free": Row("label-free: logits", LOGITS, ("none",)),
        "free-cold": Row("label-free: logits, temperature 1", COLD, ("none",)),
        "free-unfrozen": Row("label-free: logits + unfreezing", (*LOGITS, unfreezing), ("none",)),
        "free-cropped": Row("... and crops", (*LOGITS, unfreezing, cropped), ("none",)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, trains what is missing, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the runs and tables")
    parser.add_argument("--data", type=Path, required=True, help="a folder in COCO's layout")
    parser.add_argument("--teacher", type=Path, required=True, help="an ONNX file")
    parser.add_argument("--output-kind", default="probabilities", help="teacher.output")
    parser.add_argument("--feature", required=True, help="the teacher's tensor at stride 8")
    parser.add_argument("--deep", required=True, help="the teacher's tensor at stride 16")
    parser.add_argument("--few", type=int, default=16, help="images with masks in the regime `few`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", help="names of rows (default: all)")
    regimes = list(ablation_table.REGIMES)
    parser.add_argument("--regimes", nargs="*", default=regimes, choices=regimes)
    parser.add_argument(
        "--table", action="store_true", help="only write the table of finished runs"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any key, for every run")
    args = parser.parse_intermixed_args(arguments)
    known = rows(args.feature, args.deep)
    chosen = args.rows or list(known)
    if unknown := set(chosen) - known.keys():
        raise ConfigError(
            f"--rows: there is no row {sorted(unknown)[0]!r}; available: {', '.join(known)}",
            code="unknown-row",
        )
    table = {name: row for name, row in known.items() if name in chosen}
    if args.table and not args.folder.is_dir():
        raise ConfigError(f"there is no folder {args.folder.absolute()}", code="no-such-folder")
    if not args.table:
        shared = _design(args)
        runs.check(args.folder, shared)
        ablation_table.check(args.folder, shared, table)
        found = ablation_table.read(args.folder, known)
        missing = list(_missing(args, table, found))
        for run, settings in missing:
            config.load(CONFIG, [*settings, f"run={run}"])
        # Written only now, so that a mistake in the arguments does not bind the folder.
        runs.write(args.folder, shared)
        for run, settings in missing:
            scores = runs.train(str(CONFIG), run, settings)
            made = {ablation_table.SETTINGS: list(table[run.parent.name].settings)}
            runs.save(run / ablation_table.DONE, {**scores, **made})
            ablation_table.write(args.folder, known)
    ablation_table.write(args.folder, known)


def _design(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the values that all runs of a folder must share for their numbers to compare.

    Raises:
      NetworkError: The teacher has no such tensor.
      WeightsError: The student's weights cannot be read.
    """
    teacher = OnnxGraph(args.teacher)
    teacher.cut([args.feature, args.deep])
    return {
        "--data": str(args.data.absolute()),
        "--teacher": teacher.fingerprint,
        "--output-kind": args.output_kind,
        **{f"--{name}": getattr(args, name) for name in ("feature", "deep", "few")},
        **runs.effective(config.load(CONFIG, args.overrides)),
    }


def _missing(
    args: argparse.Namespace, table: Mapping[str, Row], found: ablation_table.Found
) -> Iterator[tuple[Path, list[str]]]:
    """Yields the unfinished runs, seed by seed, so that every row has a result early."""
    regimes = ablation_data.prepare(args.folder / "data", args.data.absolute(), args.few)
    common = [
        f"teacher.onnx={args.teacher}",
        f"teacher.output={args.output_kind}",
        f"detector.onnx={args.teacher}",
        "detector.normalization=imagenet",
        f"targets.cache={args.folder / 'targets'}",
        f"data.prepared={args.folder / 'prepared'}",
        *args.overrides,
    ]
    for seed in range(args.seeds):
        for name, row in table.items():
            for regime in (known for known in row.regimes if known in args.regimes):
                run = args.folder / regime / name / str(seed)
                distills = any(setting.startswith("losses.kl") for setting in row.settings)
                data = regimes[regime if distills or regime != "few" else "few-repeated"]
                settings = [*common, *data, *row.settings, f"seed={seed}"]
                if str(seed) not in found[regime].get(name, {}):
                    yield run, settings


if __name__ == "__main__":
    sys.exit(command(main))
