"""Measures a training step: the PyTorch original's, ours, and ours with cached teacher outputs.

`--contestants original compiled ours` measures the original under `torch.compile` as well.

    python tools/benchmarks/benchmark_step.py \\
        --config configs/yolo_feature_distillation_b0_from_b3.yaml \\
        --detector yolo.onnx --teacher teacher.onnx --teacher-checkpoint teacher.pth

Every contestant is a process of its own. All are built before the first is measured, and then they
take turns, so that only one computes at a time and a disturbance affects all. The results are
medians. The images are drawn, and the student starts from random weights unless overrides such as
`student.encoder_weights=FILE` change that; neither affects the amount of computation.

Ours augments as configured; with cached outputs it only flips, so that everything can be cached.
The original's images are in memory already. The floor is the arithmetic of the step divided by the
best rate of a matrix product on this machine.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import benchmark_table
import drawn_images
import json_file
from rich.console import Console
from rich.progress import track

from jaxdistill import config
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import ConfigError, UserError

TOOLS = Path(__file__).parent
SCRIPTS = {
    "original": ("benchmark_original.py",),
    "compiled": ("benchmark_original.py", "--compiler", "{compiler}"),
    "ours": ("benchmark_ours.py",),
    "cached": ("benchmark_ours.py",),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, measures, and prints tables."""
    args = parser().parse_intermixed_args(arguments)
    for path in (args.detector, args.teacher, args.teacher_checkpoint):
        if not path.is_file():
            raise ConfigError(f"there is no file {path.absolute()}", code="no-such-file")
    if args.threads:
        _restrict_cores(args.threads)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, ExitStack() as running:
        console = Console(soft_wrap=True, highlight=False)
        configs = write_configs(args, Path(folder))
        with Child(("benchmark_arithmetic.py",), configs["ours"], args) as child:
            arithmetic = child.found
        if "cached" in args.contestants:
            console.print("filling the target cache")
            _run("-m", "jaxdistill", "cache-targets", "--config", configs["cached"])
        children = {}
        for name in args.contestants:
            console.print(f"building {name}")
            children[name] = running.enter_context(Child(SCRIPTS[name], configs[name], args))
            children[name].wait()
        measured = measure(children, args.rounds, args.steps, console)
        settings = config.load(configs["ours"])
    measured["arithmetic"] = arithmetic
    measured["setting"] = {
        "size": settings.data.image_size,
        "batch": settings.training.batch_size,
        "precision": settings.precision,
        "threads": len(os.sched_getaffinity(0)),
    }
    benchmark_table.show(measured, console)
    if args.json:
        args.json.write_text(json.dumps(measured, indent=2))


class Child:
    """The process of a contestant, which builds itself; see `benchmark_child`.

    Args:
      command: Its script and options.
      settings: Its configuration.
      args: Of the command line.
    """

    def __init__(self, command: Sequence[str], settings: Path, args: argparse.Namespace) -> None:
        script, *options = command
        self._script, self._log = script, settings.with_suffix(f".{Path(script).stem}.log")
        threads = ["--threads", str(args.threads)] if args.threads else []
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, TOOLS / script, settings, args.teacher_checkpoint),
                    *threads,
                    *(each.format(compiler=args.compiler) for each in options),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(script),
            )

    @cached_property
    def found(self) -> dict[str, Any]:
        """Facts about the contestant, its first answer."""
        return self._answer()

    def wait(self) -> None:
        """Waits until the contestant is built."""
        _ = self.found

    def ask(self, **question: object) -> dict[str, Any]:
        """Sends a question and returns the answer."""
        self.wait()
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
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


def measure(
    children: Mapping[str, Child], rounds: int, steps: int, console: Console
) -> dict[str, Any]:
    """Returns for each contestant its facts, seconds by part, and memory after whole steps.

    Args:
      children: The contestants by name.
      rounds: How often each takes its turn.
      steps: Steps of a turn.
      console: Shows a bar, if it is a terminal.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in children}
    memory = {}
    for measure in ("whole", "parts"):
        for _ in track(range(rounds), measure, console=console, disable=not console.is_terminal):
            for name, child in children.items():
                answer = child.ask(measure=measure, steps=steps)
                for part, values in answer["seconds"].items():
                    seconds[name].setdefault(part, []).extend(values)
                if measure == "whole":  # measuring the parts needs more memory than a step does
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


def write_configs(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Writes the configuration of each contestant and the images that it names.

    Args:
      args: Of the command line.
      folder: Where to.

    Returns:
      The files by the names of contestants.

    Raises:
      ConfigError: The original cannot be trained like that.
    """
    overrides = [
        f"run={folder / 'run'}",
        f"data.root={folder / 'data'}",
        f"data.prepared={folder / 'prepared'}",
        f"data.image_size={list(args.size)}",
        f"training.batch_size={args.batch}",
        f"teacher.onnx={args.teacher}",
        f"detector.onnx={args.detector}",
        "student.encoder_weights=null",
        "targets.cache=null",
        *args.overrides,
    ]
    settings = config.load(args.config, overrides)
    if not settings.features:
        raise ConfigError(
            f"{args.config}: features is empty, but the original always distils features",
            code="no-features",
        )
    data = settings.data
    if not (data.train.labelled and data.validation.labelled) or data.unlabelled:
        raise ConfigError(
            f"{args.config}: data: the original needs masks for all images", code="no-masks"
        )
    if data.additional or data.repeat > 1:
        raise ConfigError(
            f"{args.config}: data: the original reads data.train alone, once in each epoch",
            code="conflicting-keys",
        )
    drawn_images.draw(folder / "data", settings.data, 2 * args.batch)
    cached = [f"targets.cache={folder / 'targets'}"]
    if settings.data.augment != "none" and not settings.targets.clean_images:
        cached.append("data.augment=flip")
    files = {}
    for name in SCRIPTS:
        more = cached if name == "cached" else []
        files[name] = folder / f"{name}.yaml"
        own = config.load(args.config, [*overrides, *more])
        files[name].write_text(config.dump(own), encoding="utf-8")
    return files


def _restrict_cores(threads: int) -> None:
    """Restricts this process and its children to some cores; XLA has one thread per core."""
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise ConfigError(f"--threads {threads}: there are {len(cores)} cores", code="threads")
    os.sched_setaffinity(0, cores[:threads])


def _environment(script: str = "") -> dict[str, str]:
    """Returns an environment without compilation cache, so that compilation is measured."""
    # The original uses JAX's shapes only: JAX would hold memory of the GPU.
    without_gpu = {"JAX_PLATFORMS": "cpu"} if script == SCRIPTS["original"][0] else {}
    return {**os.environ, **without_gpu, "JAX_ENABLE_COMPILATION_CACHE": "false"}


def _run(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=_environment()
    )
    if done.returncode:
        raise _failure(str(arguments[1]), done.returncode, done.stderr)


def _failure(what: str, code: int, log: str) -> Exception:
    """Returns the error of a process that ended: its own, if a user can correct it."""
    if code < 0:
        return UserError(
            f"{what}: killed by signal {-code}; was there enough memory?", code="process-killed"
        )
    last = log.strip().rpartition("\n")[2]
    if code == 2 and (found := re.fullmatch(r"error: (.*) \[([a-z0-9-]+)\]", last)):
        return UserError(found[1], code=found[2])
    return RuntimeError(f"{what} failed:\n{log}")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="a YAML file, or a shipped configuration's name"
    )
    for option, what in (
        ("--detector", "the feature network, .onnx"),
        ("--teacher", "the teacher, .onnx, for ours"),
        ("--teacher-checkpoint", "the same teacher, .pth or .safetensors, for the original"),
    ):
        parser.add_argument(option, type=Path, required=True, help=what)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 640), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=4, help="images per step (default: 4)")
    parser.add_argument("--threads", type=int, help="number of cores, and threads per library")
    parser.add_argument("--steps", type=int, default=5, help="steps per turn (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument(
        "--contestants", nargs="+", choices=SCRIPTS, default=["original", "ours", "cached"]
    )
    parser.add_argument(
        "--compiler", default="inductor", help="backend of torch.compile (default: inductor)"
    )
    json_file.add_option(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="any key of --config")
    return parser


if __name__ == "__main__":
    raise SystemExit(errors.command(main))
