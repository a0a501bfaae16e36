#!/usr/bin/env python3
"""Checks and measures the project on the GPU of this machine, in stages.

    python tools/benchmarks/gpu/check.py --kit build/gpu_check/kit              # every stage
    python tools/benchmarks/gpu/check.py --kit build/gpu_check/kit step torch   # some of them

`pack.py` makes the kit. Where it arrived in pieces, give each to `--piece` instead of `--kit`;
after the last one, everything is unpacked and the stages run. See docs/gpu.md.

Every stage has a time limit of its own, and one that fails or is stopped does not end the others.
Results go to `results.jsonl`, what programs print to `log.txt`, both in the folder of `--results`;
`tables.py` makes tables of them. Nothing about the card is changed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import kit as kits
import pieces
import results

HERE = Path(__file__).parent
_PATIENCE = 10  # seconds that a stage has to write its results after it was interrupted
_GRAPH = "--xla_gpu_enable_command_buffer=+CONVOLUTION"
_UNTUNED = "--xla_gpu_autotune_level=0"


class Stage(NamedTuple):
    """A part of the check: scripts that share a time limit."""

    limit: float
    """Seconds."""
    commands: tuple[tuple[str, ...], ...]
    """Scripts of this folder with their arguments, one after the other."""
    environment: Mapping[str, str] = {}
    default: bool = True
    """Whether it runs where no stage is named."""


STAGES = {
    "ceilings": Stage(30, (("measure_ceilings.py",),)),
    # Compilation is measured too, and tuning is a part of it.
    "step": Stage(150, (("measure_step.py",),), {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
    "profile": Stage(50, (("measure_profile.py",),)),
    # One CUDA graph for the whole step, by a flag alone.
    "graph": Stage(40, (("measure_step.py", "--first"),), {"XLA_FLAGS": _GRAPH}, default=False),
    # The forms of operations by themselves, to choose between them.
    "forms": Stage(120, (("measure_forms.py",),), default=False),
    "whole": Stage(190, (("measure_whole.py",),)),
    # The student's part alone, in both layouts; `whole` compares with the original as well. JAX
    # would hold memory of the GPU.
    "torch": Stage(110, (("measure_torch.py",),), {"JAX_PLATFORMS": "cpu"}, default=False),
    "train": Stage(50, (("measure_run.py", "train"),)),
    "resume": Stage(30, (("measure_run.py", "resume"),)),
    "export": Stage(20, (("measure_run.py", "export"),)),
    # Tuning would take most of the time, and no test asks for speed.
    "tests": Stage(150, (("measure_tests.py",),), {"XLA_FLAGS": _UNTUNED}),
    "onnx": Stage(50, (("measure_onnx.py",),)),
}
RECEIVE = 40
"""Seconds that the last piece takes to be unpacked and installed, about."""
BUDGET = 780
"""Seconds for everything but the start of a machine."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and runs the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kit", type=Path, help="folder of the kit")
    parser.add_argument("--piece", type=Path, help="a piece of a kit, to be unpacked in --work")
    parser.add_argument(
        "--work", type=Path, default=Path("build/gpu_check/work"), help="for what is unpacked"
    )
    parser.add_argument("--results", type=Path, default=Path("build/gpu_check/results"))
    parser.add_argument(
        "--seconds", type=float, default=BUDGET, help="for all stages together (default: 780)"
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"default: all; {', '.join(STAGES)}"
    )
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.stages if name not in STAGES]:
        parser.error(f"there is no stage {unknown[0]!r}; stages: {', '.join(STAGES)}")
    work, out = args.work.absolute(), args.results.absolute()
    out.mkdir(parents=True, exist_ok=True)
    folder = args.kit.absolute() if args.kit else work / "kit"
    if args.piece and not pieces.receive(args.piece, work):
        return
    if not (folder / kits.NAME).is_file():
        parser.error(f"there is no kit in {folder}; make one with pack.py")
    environment = _environment(folder, work, out)
    patience = kits.read(folder).patience
    end = time.monotonic() + patience * args.seconds
    names = args.stages or [name for name, stage in STAGES.items() if stage.default]
    for name in names:
        stage = STAGES[name]
        run(name, stage._replace(limit=patience * stage.limit), environment, out, end)
    print(f"results: {out / 'results.jsonl'}")


def run(
    name: str, stage: Stage, environment: Mapping[str, str], out: Path, end: float = float("inf")
) -> bool:
    """Runs a stage, records how it ended, and returns whether it succeeded.

    Args:
      name: Its name.
      stage: What to run.
      environment: Of the scripts; `results.VARIABLE` in it names the file of results.
      out: Folder of the log.
      end: The time, of `time.monotonic`, when all stages have to be done.
    """
    start = time.monotonic()
    stop = min(start + stage.limit, end)
    codes: list[int | str] = []
    flags = [each.get("XLA_FLAGS", "") for each in (environment, stage.environment)]
    child = {**environment, **stage.environment, "XLA_FLAGS": " ".join(flags).strip()}
    print(f"== {name}, at most {max(stop - start, 0):.0f} s", flush=True)
    with (out / "log.txt").open("a") as log:
        print(f"== {name}", file=log, flush=True)
        for script, *arguments in stage.commands:
            command = [sys.executable, str(HERE / script), *arguments]
            codes.append(
                _limited(command, child, log, stop) if time.monotonic() < stop else "limit"
            )
    seconds = round(time.monotonic() - start, 1)
    ended = {"name": name, "seconds": seconds, "exit": codes}
    if run_id := environment.get(results.RUN):
        ended["run"] = run_id
    results.append(Path(environment[results.VARIABLE]), "stage", **ended)
    print(f"   {seconds} s, exit codes: {', '.join(map(str, codes))}", flush=True)
    return not any(codes)


def _limited(
    command: Sequence[str], environment: Mapping[str, str], log: object, stop: float
) -> int | str:
    """Runs a command and returns its exit code, or `limit` if it had to be stopped."""
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(max(stop - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        code: int | str = "limit"
    except BaseException:
        _end(process)
        raise
    _end(process)
    return code


def _end(process: subprocess.Popen) -> None:
    """Interrupts a process and those that it started; kills them if that does not end it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(folder: Path, work: Path, out: Path) -> dict[str, str]:
    tools = kits.ROOT / "tools"
    paths = [work / "site", kits.ROOT, HERE, tools / "benchmarks", tools / "demo"]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    return {
        "JAX_COMPILATION_CACHE_DIR": str(work / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited]),
        "PYTHONUNBUFFERED": "1",
        kits.VARIABLE: str(folder),
        "JAXDISTILL_GPU_OUT": str(out),
        "JAXDISTILL_GPU_WORK": str(work),
        results.VARIABLE: str(out / "results.jsonl"),
        results.RUN: time.strftime("%Y-%m-%d %H:%M:%S"),
    }


if __name__ == "__main__":
    main()
