"""What a run's numbers depend on, and how two runs differ.

A resumed run must have been trained with the same settings, data and networks. Settings that change
no number may differ; files are compared by content, not by path. Processes of one run may differ in
paths only.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdistill import config
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.config.flat import flat
from jaxdistill.config.losses import OBJECTS
from jaxdistill.models.weights import format_normalization
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import DistributedError, RunError, UserError
from jaxdistill.teachers.base import file_fingerprints, provenance_of

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer

_PATHS = (
    "run",
    "data.root",  # images and masks are compared by fingerprint
    "data.train",
    "data.validation",
    "data.unlabelled",
    "data.additional",
    "data.prepared",
    "data.source",
    "data.workers",
    "student.encoder_weights",  # compared by the fingerprint of the frozen variables
    "student.weights",
    "teacher.onnx",
    "detector.onnx",
)
_FREE = (
    *_PATHS,
    "training.epochs",
    "training.early_stopping",
    "training.interpolate",  # which the run's files are read with
    "training.skip_nonfinite",
    "checkpoints",
    "trackers",
    "mesh",  # results differ by rounding only
)
_SHOWN = 5
_INDEX = re.compile(r"\.\d+(?=\.)")  # of a list: `teacher.0.onnx`

Provenance = Mapping[str, Mapping[str, Any]]
"""`settings`, by section, and `files`, SHA-256 by name; plain values, as JSON holds them."""


def about_run(trainer: "Trainer") -> dict[str, Any]:
    """Returns what every checkpoint of a run says about it.

    Args:
      trainer: The trainer, before its first step.
    """
    return {
        "provenance": provenance_of_run(trainer),
        "frozen": fingerprint(trainer.initial_partition.frozen),
        "normalization": format_normalization(trainer.model.normalization),
        "steps_per_epoch": trainer.steps_per_epoch,
    }


def provenance_of_run(trainer: "Trainer") -> Provenance:
    """Collects everything that the numbers of a run depend on.

    Args:
      trainer: The trainer.

    Returns:
      Settings, and fingerprints of data, frozen variables and network files.
    """
    settings = trainer.settings.model_dump(mode="json")
    # A weights file may have set the normalisation; its arrays have a fingerprint, this has not.
    settings["student"]["normalization"] = trainer.model.normalization._asdict()
    files = {f"{role}.onnx": digest for role, digest in file_fingerprints(trainer.teacher).items()}
    if trainer.teacher is not None and not files:  # a Python function
        declared = json.dumps(provenance_of(trainer.teacher), sort_keys=True)
        files["teacher"] = hashlib.sha256(declared.encode()).hexdigest()
    return {
        "settings": settings,
        "losses": {name: repr(loss) for name, loss in trainer.losses.items()},
        "files": {
            "data.train": trainer.data.train.fingerprint,
            "data.validation": getattr(trainer.data.validation, "fingerprint", None),
            "the student's frozen variables": fingerprint(trainer.initial_partition.frozen),
            **files,
        },
    }


def check_same_provenance(before: Provenance, now: Provenance, where: str) -> None:
    """Compares what a run was trained with and what it would go on with.

    Args:
      before: The provenance in the run's checkpoint.
      now: The provenance of this process.
      where: The run's folder, for the message.

    Raises:
      RunError: They differ (`changed-settings`); the message names the keys.
    """
    if found := differences(before, now):
        shown = "; ".join(found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
        raise RunError(
            f"{where} was trained with something else: {shown}; resume with the same, or add "
            f"--accept-changes if the change is intended",
            code="changed-settings",
        )


def check_processes_agree(own: Provenance, resume: bool, teacher: Mapping[str, Any]) -> None:
    """Checks that all processes of a run were given the same settings, data and files.

    Args:
      own: The provenance of this process.
      resume: Whether this process resumes the run.
      teacher: What the teacher's outputs depend on in this process, such as the precision in which
        it computes: it may fall back to another one where it does not find a GPU's libraries.

    Raises:
      DistributedError: Some differ from process 0 (`processes-differ`).
    """
    settings = dict(_compared(own["settings"], _PATHS))
    check_same_values(
        [settings, own["files"], resume, teacher],
        "have other settings, data or files than process 0, or compute the teacher in another way "
        "(see their warnings); start all of them with the same command on the same files",
    )


def check_same_values(own: Any, otherwise: str) -> None:
    """Checks that all processes have the same plain values.

    Args:
      own: The values of this process, as JSON holds them.
      otherwise: What the message says of processes whose values differ from those of process 0.

    Raises:
      DistributedError: Some differ (`processes-differ`).
    """
    digest = hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).digest()
    digests = distributed.all_gather(np.frombuffer(digest, np.uint8)[None])
    others = [str(index) for index in np.flatnonzero((digests != digests[0]).any(1))]
    if others:
        raise DistributedError(
            f"processes {', '.join(others)} {otherwise}", code="processes-differ"
        )


def differences(before: Provenance, now: Provenance) -> list[str]:
    """Describes in words how two provenances differ, one line for each key.

    Args:
      before: The earlier provenance.
      now: The later one.
    """
    old, new = (dict(_compared(_with_defaults(side["settings"]))) for side in (before, now))
    changed = [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    old_files, new_files = before["files"], now["files"]
    replaced = [
        f"{name} had the fingerprint {str(old_files.get(name))[:12]} and has "
        f"{str(new_files.get(name))[:12]}"
        for name in dict.fromkeys([*old_files, *new_files])
        if old_files.get(name) != new_files.get(name)
    ]
    return [*changed, *_changed_losses(before, now), *replaced]


def _changed_losses(before: Provenance, now: Provenance) -> Iterator[str]:
    """Yields a line for each loss that was given as an object and is another one now."""
    old, new = before.get("losses", {}), now.get("losses", {})
    if not all(OBJECTS in side["settings"].get("losses", {}) for side in (before, now)):
        return  # the settings describe them
    for name in dict.fromkeys([*old, *new]):
        values = old.get(name), new.get(name)
        # An address in memory says nothing.
        if values[0] != values[1] and " at 0x" not in f"{values}":
            yield f"the loss {name} was {values[0]} and is {values[1]}"


def _with_defaults(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Completes settings with today's defaults, where they are still valid."""
    if "mask_resize" not in (data := tree.get("data") or {}) and data.get("root"):
        tree = {**tree, "data": {**data, "mask_resize": "nearest"}}  # before there was this key
    try:
        return config.check(dict(tree), source="").model_dump(mode="json")
    except UserError:
        return tree


def _compared(
    settings: Mapping[str, Any], free: Sequence[str] = _FREE
) -> Iterator[tuple[str, Any]]:
    for key, value in flat(settings):
        if key == "targets.cache" and value is not None:
            yield key, "a folder"  # any folder, but what a cache keeps is rounded to float16
        elif not any(f"{_INDEX.sub('', key)}.".startswith(f"{path}.") for path in free):
            yield key, value
