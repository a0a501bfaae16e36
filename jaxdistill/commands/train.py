"""Trains a student: `jaxdistill train [--config FILE] data.root=FOLDER [KEY=VALUE ...]`.

The layout of the folder is recognised where the configuration does not name the folders of images
and masks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdistill import config
from jaxdistill.commands import common
from jaxdistill.runtime import distributed, xla
from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.run_layout import CHECKPOINTS, CONFIG
from jaxdistill.runtime.signals import EXIT_CODE

if TYPE_CHECKING:  # slow to import
    from jaxdistill.training.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Parses arguments and trains.

    Args:
      arguments: The arguments; None takes those of the process.

    Returns:
      `EXIT_CODE` if the training was interrupted and can be resumed.
    """
    parser = common.CommandParser("train", __doc__)
    parser.add_argument(
        "--config",
        help="a YAML file, or the name of a shipped configuration (default, with data.root=FOLDER: "
        "recommended)",
    )
    parser.add_argument("--epochs", help="training.epochs")
    parser.add_argument("--batch_size", help="training.batch_size")
    parser.add_argument("--feature_weight", help="losses.feature")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, take a few steps, write nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --resume: settings, data or files may differ from those of the run",
    )
    distributed.add_options(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as training.clip.norm=1"
    )
    args = parser.parse_intermixed_args(
        _as_overrides(sys.argv[1:] if arguments is None else arguments)
    )
    if args.config is None and not any(each.startswith("data.root=") for each in args.overrides):
        parser.error("expected the folder of the images, data.root=FOLDER, or --config FILE")
    path = Path(args.config or "recommended")
    short = {
        "training.epochs": args.epochs,
        "training.batch_size": args.batch_size,
        "losses.feature": args.feature_weight,
    }
    overrides = args.overrides + [f"{key}={value}" for key, value in short.items() if value]
    settings = config.load(path, overrides)
    if args.resume and not any(override.startswith("run=") for override in overrides):
        settings = _in_its_folder(settings, path)
    xla.allocate_as_needed()
    with distributed.initialized(args):
        xla.configure_for_training()
        return train(
            settings,
            resume=args.resume,
            accept_changes=args.accept_changes,
            dry_run=args.dry_run,
        )


def train(
    settings: config.Config,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    dry_run: bool = False,
) -> int | None:
    """Trains as a configuration says, with messages on the terminal.

    Args:
      settings: The configuration.
      resume: See `Trainer.fit`.
      accept_changes: See `Trainer.fit`.
      dry_run: Take a few steps and write nothing.

    Returns:
      `EXIT_CODE` if the training was interrupted and can be resumed.
    """
    from jaxdistill.training.dry_run import dry_run as rehearse
    from jaxdistill.training.trainer import Trainer

    trainer = Trainer.from_config(settings)
    if dry_run:
        rehearse(trainer)
        return None
    trainer.fit(resume=resume, accept_changes=accept_changes)
    if trainer.stop_requested:
        trainer.console.print(
            f"{trainer.stop_reason}: stopped after step {trainer.progress.step}, with a "
            f"checkpoint; go on with --resume"
        )
        return EXIT_CODE
    if settings.training.interpolate is not None and distributed.is_main_process():
        _print_interpolated(trainer)
    return None


def _print_interpolated(trainer: "Trainer") -> None:
    """Prints the scores of the student that the other commands take from the run."""
    from jaxdistill.data import Data
    from jaxdistill.evaluation import evaluate, load

    trainer.console.print("measuring the student that evaluate, predict and export take ...")
    try:
        # It lies between the run's start and its best checkpoint; validation measured the latter.
        predictor, data = load(trainer.run), Data(trainer.settings.data)
        teacher = None if data.validation.labelled.any() else trainer.teacher
        found = evaluate(predictor, data, teacher).network
    except UserError as error:  # the training is complete all the same
        trainer.console.print(f"training.interpolate: {error}", markup=False, soft_wrap=True)
        return
    titles = {"miou": "mIoU", "boundary_iou": "boundary IoU", "agreement": "agreement"}
    scores = ", ".join(f"{titles[name]} {found[name]:.4f}" for name in titles if name in found)
    trainer.console.print(f"{predictor.description}: {scores}", markup=False, soft_wrap=True)
    trainer.console.print(
        "with --interpolate 1 they take the trained weights, which the validation above measured",
        soft_wrap=True,
    )


def _in_its_folder(settings: config.Config, path: Path) -> config.Config:
    """Returns settings whose run is the folder of the file, if that is the folder of a run.

    So a run that was moved is resumed where it is now, and not where it was.
    """
    if path.name == CONFIG and (path.parent / CHECKPOINTS).is_dir():
        return settings.model_copy(update={"run": path.parent.absolute()})
    return settings


def _as_overrides(arguments: Sequence[str]) -> list[str]:
    """Turns dotted options, `--training.epochs 3` or `--training.epochs=3`, into overrides."""
    rest, remaining = [], iter(arguments)
    for argument in remaining:
        key, equals, value = argument.partition("=")
        if key.startswith("--") and "." in key:
            argument = f"{key[2:]}={value if equals else next(remaining, '')}"
        rest.append(argument)
    return rest
