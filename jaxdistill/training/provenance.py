"""What a run depends on, and how two such lists differ: nobody goes on with another run by mistake.

Settings that change no number may differ, and how long a run lasts; files are compared by their
content and not by their place. Processes of one run differ in places alone.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill import config
from jaxdistill.checkpoint.manager import fingerprint
from jaxdistill.runtime import distributed
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.base import file_fingerprints
from jaxdistill.training.setup import Job

_PLACES = (
    "run",
    "data.root",  # pictures and masks have fingerprints
    "data.train",
    "data.validation",
    "data.unlabelled",
    "data.prepared",
    "data.workers",
    "student.encoder_weights",  # so has what they make of the frozen variables
    "student.weights",
    "teacher.onnx",
    "detector.onnx",
)
_FREE = (
    *_PLACES,
    "training.epochs",
    "training.skip_nonfinite",
    "checkpoints",
    "mesh",  # rounding apart
)
_SHOWN = 5

Identity = Mapping[str, Mapping[str, Any]]
"""`settings`, by section, and `files`: SHA-256 by what they are; plain values, as JSON has them."""


def identity(job: Job) -> Identity:
    """All that the numbers of a run depend on."""
    files = {f"{role}.onnx": digest for role, digest in file_fingerprints(job.networks).items()}
    settings = job.settings.model_dump(mode="json")
    # A weights file may have said it; its arrays have a fingerprint, this has not.
    settings["student"]["normalization"] = job.split.merge().normalization._asdict()
    return {
        "settings": settings,
        "files": {
            "data.train": job.dataset.fingerprint,
            "data.validation": job.validation_dataset.fingerprint,
            "the student's frozen variables": fingerprint(job.split.frozen),
            **files,
        },
    }


def check(then: Identity, now: Identity, where: str) -> None:
    """Compares what a run was trained with and what it would go on with.

    Raises:
      UserError: names every difference by its key.
    """
    if found := differences(then, now):
        shown = "; ".join(found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
        raise UserError(
            f"{where} was trained with something else: {shown}; go on with what it was, or add "
            f"--accept-changes if the change is meant"
        )


def check_processes(own: Identity, resume: bool) -> None:
    """Sees that all processes of a run were given the same.

    Raises:
      UserError: names those that were not, as seen from process 0.
    """
    settings = dict(_compared(own["settings"], _PLACES))
    check_same(
        [settings, own["files"], resume],
        "have other settings, data or files than process 0; start all of them with the same "
        "command on the same files",
    )


def check_same(own: Any, otherwise: str) -> None:
    """Sees that all processes have the same plain values.

    Raises:
      UserError: names those that have not, and says of them what is given as `otherwise`.
    """
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).digest()
    digests = distributed.all_gather(np.frombuffer(digest, np.uint8)[None])
    others = [str(index) for index in np.flatnonzero((digests != digests[0]).any(1))]
    if others:
        raise UserError(f"processes {', '.join(others)} {otherwise}")


def differences(then: Identity, now: Identity) -> list[str]:
    """In words, one for each key."""
    before, after = (dict(_compared(_settings(side["settings"]))) for side in (then, now))
    changed = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    old, new = then["files"], now["files"]
    replaced = [
        f"{name} had the fingerprint {str(old.get(name))[:12]} and has {str(new.get(name))[:12]}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    return [*changed, *replaced]


def _settings(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Complete with today's defaults, if the settings are still valid ones."""
    try:
        return config.check(dict(tree), source="").model_dump(mode="json")
    except UserError:
        return tree


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list of plain values is a value."""
    if isinstance(tree, Mapping):
        children = tree.items()
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        children = {str(index): item for index, item in enumerate(tree)}.items()
    else:
        yield path, tree
        return
    for key, value in children:
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def _compared(
    settings: Mapping[str, Any], free: Sequence[str] = _FREE
) -> Iterator[tuple[str, Any]]:
    for key, value in _flat(settings):
        if key == "targets.cache" and value is not None:
            yield key, "a folder"  # wherever: but what a store keeps is rounded to float16
        elif not any(key == path or key.startswith(path + ".") for path in free):
            yield key, value
