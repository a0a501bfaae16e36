"""How long a training step takes: the PyTorch original's, ours, and ours with stored targets.

    python tools/benchmark_step.py --config configs/yolo_feature_distillation_b0_from_b3.yaml \\
        --detector yolo.onnx --teacher teacher.onnx --teacher-checkpoint teacher.pth

Every contestant is a process of its own; all are built before the first is measured, and then they
take turns, so that only one computes at a time and all have the same luck with the machine. Given
are medians. Pictures are drawn, and the student starts from random weights, unless overrides such
as `student.encoder_weights=FILE` say otherwise: neither changes what there is to compute.

Ours augments as configured, and with stored targets flips only, so that everything can be stored.
The original's pictures lie ready in memory. The floor is the arithmetic of the step over the best
rate that a matrix product reaches here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import benchmark_table
import drawn_images
from rich.console import Console
from rich.progress import track

from jaxdistill import config
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import UserError

TOOLS = Path(__file__).parent
SCRIPTS = {
    "original": "benchmark_original.py",
    "ours": "benchmark_ours.py",
    "stored": "benchmark_ours.py",
}


def main() -> None:
    given = _arguments()
    for path in (given.detector, given.teacher, given.teacher_checkpoint):
        if not path.is_file():
            raise UserError(f"there is no file {path.absolute()}")
    if given.threads:
        _bind(given.threads)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, ExitStack() as running:
        place, console = Path(folder), Console(soft_wrap=True, highlight=False)
        configs = _configs(given, place)
        arithmetic = Child("benchmark_arithmetic.py", configs["ours"], given)
        arithmetic.close()
        if "stored" in given.contestants:
            console.print("filling the target store")
            _run("-m", "jaxdistill", "cache-targets", "--config", configs["stored"])
        children = {}
        for name in given.contestants:
            console.print(f"building {name}")
            children[name] = running.enter_context(Child(SCRIPTS[name], configs[name], given))
        measured = _measure(children, given.rounds, given.steps, console)
        settings = config.load(configs["ours"])
    measured["arithmetic"] = arithmetic.found
    measured["setting"] = {
        "size": settings.data.image_size,
        "batch": settings.training.batch_size,
        "precision": settings.precision,
        "threads": len(os.sched_getaffinity(0)),
    }
    benchmark_table.show(measured, console)
    if given.json:
        given.json.write_text(json.dumps(measured, indent=2))


class Child:
    """A contestant's process."""

    def __init__(self, script: str, settings: Path, given: argparse.Namespace) -> None:
        self._script, self._log = script, settings.with_suffix(f".{Path(script).stem}.log")
        bound = ["--threads", str(given.threads)] if given.threads else []
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, TOOLS / script, settings, given.teacher_checkpoint, *bound],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(),
            )
        self.found = self._answer()

    def ask(self, **question: object) -> dict[str, Any]:
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *raised: object) -> None:
        if any(raised):
            self._process.kill()
        self.close()

    def _answer(self) -> dict[str, Any]:
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise _failure(self._script, self._process.wait(), self._log.read_text())


def _measure(
    children: Mapping[str, Child], rounds: int, steps: int, console: Console
) -> dict[str, Any]:
    """By contestant: what it found, seconds of its steps by part, its memory after whole steps."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in children}
    memory = {}
    for measure in ("whole", "parts"):
        for _ in track(range(rounds), measure, console=console, disable=not console.is_terminal):
            for name, child in children.items():
                answer = child.ask(measure=measure, steps=steps)
                for part, values in answer["seconds"].items():
                    seconds[name].setdefault(part, []).extend(values)
                if measure == "whole":  # the parts hold more at a time than a step does
                    memory[name] = answer["memory"]
    return {
        "contestants": {
            name: {
                **child.found,
                "memory": memory[name],
                "median": {part: statistics.median(v) for part, v in seconds[name].items()},
                "seconds": seconds[name],
            }
            for name, child in children.items()
        }
    }


def _configs(given: argparse.Namespace, place: Path) -> dict[str, Path]:
    """The configuration of each contestant, in a file, and the pictures that it names."""
    overrides = [
        f"run={place / 'run'}",
        f"data.root={place / 'data'}",
        f"data.prepared={place / 'prepared'}",
        f"data.image_size={list(given.size)}",
        f"training.batch_size={given.batch}",
        f"teacher.onnx={given.teacher}",
        f"detector.onnx={given.detector}",
        "student.encoder_weights=null",
        "targets.cache=null",
        *given.overrides,
    ]
    settings = config.load(given.config, overrides)
    if not settings.features:
        raise UserError(f"{given.config}: features is empty, but the original always aligns some")
    data = settings.data
    if not (data.train.labelled and data.validation.labelled) or data.unlabelled:
        raise UserError(f"{given.config}: the original needs pictures with masks")
    drawn_images.draw(place / "data", settings.data, 2 * given.batch)
    stored = [f"targets.cache={place / 'store'}"]
    if settings.data.augment != "none" and not settings.targets.clean_images:
        stored.append("data.augment=flip")
    files = {}
    for name, more in (("original", []), ("ours", []), ("stored", stored)):
        files[name] = place / f"{name}.yaml"
        own = config.load(given.config, [*overrides, *more])
        files[name].write_text(config.dump(own), encoding="utf-8")
    return files


def _bind(threads: int) -> None:
    """Leaves so many cores to this process and its children; XLA takes as many threads as cores."""
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise UserError(f"--threads {threads}: there are {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])


def _environment() -> dict[str, str]:
    """A compiled program of an earlier run would hide what compiling costs."""
    return {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}


def _run(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=_environment()
    )
    if done.returncode:
        raise _failure(str(arguments[1]), done.returncode, done.stderr)


def _failure(what: str, code: int, log: str) -> Exception:
    """What a process had to say in the end, or how it came to it."""
    if code < 0:
        return UserError(f"{what}: killed by signal {-code}; was there enough memory?")
    if code == 2:  # a user's error, in its last line
        return UserError(log.strip().rpartition("\n")[2].removeprefix("error: "))
    return RuntimeError(f"{what} failed:\n{log}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file, as in configs/")
    for option, what in (
        ("--detector", "the feature network, .onnx"),
        ("--teacher", "the teacher, .onnx, for ours"),
        ("--teacher-checkpoint", "the same teacher, .pth or .safetensors, for the original"),
    ):
        parser.add_argument(option, type=Path, required=True, help=what)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 640), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4, help="pictures per step (default: 4)")
    parser.add_argument("--threads", type=int, help="cores, and threads of every library")
    parser.add_argument("--steps", type=int, default=5, help="per turn (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument(
        "--contestants", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="default: all"
    )
    parser.add_argument("--json", type=Path, help="all numbers, into this file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any key of --config")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    raise SystemExit(errors.command(main))
