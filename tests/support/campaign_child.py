"""Small trainings on an unreliable file system, in one process: `campaign_child.py PLACE N SEED`.

The library of `faulty_io.c` is preloaded. Every run is resumed until it is finished; what then
differs from an undisturbed run is printed, and the exit code is 1.
"""

import collections
import ctypes
import json
import logging
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tiny_run
import toy_student

from jaxdistill import config
from jaxdistill.checkpoint import folders, integrity, manager
from jaxdistill.runtime import errors, files
from jaxdistill.training import Trainer

KINDS = ("EIO", "ESTALE", "ENOSPC", "slow")
RATE, BURSTS = 0.004, 0.15
EPOCHS, STEPS = 3, 6
ATTEMPTS = 12  # with faults; then the run is finished without
DISTURBED = ("run", "prepared", "cache")
"""Folders of a round, in which faults happen."""


class Faults:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_record.restype = ctypes.c_char_p

    def start(self, folder: Path, seed: int) -> None:
        each, bursts = ctypes.c_double(RATE), ctypes.c_double(BURSTS)
        self._library.faults_start(str(folder).encode(), ctypes.c_uint64(seed), each, bursts)

    def stop(self) -> None:
        self._library.faults_stop()

    @property
    def counts(self) -> collections.Counter[str]:
        found = (ctypes.c_int * len(KINDS))()
        self._library.faults_counts(found)
        return collections.Counter(dict(zip(KINDS, found, strict=True)))

    @property
    def record(self) -> list[str]:
        return self._library.faults_record().decode(errors="replace").splitlines()


def settings_for(place: Path, around: Path) -> config.Config:
    """A run of all parts: data to prepare, a teacher, a cache, a checkpoint after every step."""
    return config.load(
        tiny_run.SPECIFIED,
        [
            *tiny_run.overrides(place),
            "data.image_size=[32, 32]",
            "data.augment=flip",
            f"data.prepared={around}/prepared",
            f"targets.cache={around}/cache",
            f"run={around}/run",
            "detector=null",
            "features=[]",
            "student.encoder=toy-encoder",
            "student.decoder=toy-decoder",
            "student.decoder_channels=null",
            f"training.epochs={EPOCHS}",
            "checkpoints.every_steps=1",
        ],
    )


def finish(settings: config.Config, faults: Faults) -> tuple[Trainer, int]:
    """Starts and resumes a run until it is finished; also returns how often it ended with a line.

    Raises:
      Exception: Whatever would give a user a traceback.
    """
    for attempt in range(ATTEMPTS + 1):
        if attempt == ATTEMPTS:
            faults.stop()
        try:
            trainer = Trainer.from_config(settings, tiny_run.QUIET)
            return trainer.fit(resume=True), attempt
        except Exception as error:
            if errors.report(error) is None or attempt == ATTEMPTS:
                raise
    raise AssertionError


def state_of(trainer: Trainer) -> dict[str, str]:
    parts = manager.to_parts(trainer.state)
    return {name: integrity.fingerprint(arrays) for name, arrays in parts.items()}


def metrics_of(run: Path) -> list[Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[line[key] for key in ("epoch", "train", "validation")] for line in lines]


def problems_of(trainer: Trainer, around: Path, expected: tuple[Any, Any]) -> list[str]:
    """What is not as in the undisturbed run, or is damaged."""
    state, metrics = expected
    run, found = around / "run", []
    if state_of(trainer) != state:
        found.append("the final parameters differ")
    if metrics_of(run) != metrics:
        found.append(f"metrics.jsonl differs: epochs {[line[0] for line in metrics_of(run)]}")
    found += [f"set aside: {path}" for path in around.rglob("*.damaged*")]
    kept = list(folders.newest_first(run / "checkpoints"))
    if [folders.step_of(folder) for folder in kept][:1] != [STEPS]:
        found.append(f"the checkpoints are {kept}")
    for folder in kept:
        like = manager.to_parts(trainer.state)
        try:
            integrity.read_parts(folder, like, integrity.read_metadata(folder))
        except (integrity.DamagedError, errors.UserError) as error:
            found.append(str(error))
    return found


def main(place: Path, least: int, seed: int) -> int:
    logging.disable(logging.CRITICAL)
    files.RETRY_WAITS = (0.0, 0.01, 0.02)
    toy_student.register()
    tiny_run.make(place)
    faults, total, wrong = Faults(), collections.Counter(), 0
    trainer, _ = finish(settings_for(place, place / "undisturbed"), faults)
    expected = state_of(trainer), metrics_of(place / "undisturbed" / "run")
    start, rounds, ended = time.monotonic(), 0, 0
    while sum(total.values()) < least:
        around = place / f"round{rounds}"
        around.mkdir()
        faults.start(around, seed + rounds)
        try:
            trainer, interruptions = finish(settings_for(place, around), faults)
            faults.stop()
            found = problems_of(trainer, around, expected)
            ended += interruptions
        except Exception:
            faults.stop()
            found = [traceback.format_exc()]
        total += faults.counts
        rounds += 1
        if found:
            wrong += 1
            print(f"seed {seed + rounds - 1}:", *found, *faults.record, sep="\n")
        else:
            shutil.rmtree(around)
    kinds = ", ".join(f"{total[kind]} {kind}" for kind in KINDS)
    print(
        f"{sum(total.values())} injections ({kinds}) in {rounds} runs, which ended {ended} times "
        f"with a line and were resumed; {wrong} runs differ; {time.monotonic() - start:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
