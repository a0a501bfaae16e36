"""Stages of check.py: a whole training run, one that is stopped and resumed, and the export.

    measure_run.py train | resume | export

`resume` and `export` compare with the run of `train`.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kit as kits
import results

from jaxdistill.reporting import run_files
from jaxdistill.runtime import signals

_WORK = Path(os.environ.get("JAXDISTILL_GPU_WORK", "build/gpu_check/work"))
WHOLE, RESUMED = _WORK / "runs" / "whole", _WORK / "runs" / "resumed"
_SCORES = ("student_miou", "teacher_miou", "agreement", "total")


def train(arguments: Sequence[str]) -> None:
    """Trains to the end and records scores and speed."""
    shutil.rmtree(WHOLE, ignore_errors=True)
    start = time.perf_counter()
    code = _start(WHOLE, arguments).wait()
    seconds = time.perf_counter() - start
    epochs = _epochs(WHOLE)
    results.record("train", exit=code, seconds=round(seconds, 1), **_summary(epochs, seconds))


def resume(arguments: Sequence[str]) -> None:
    """Stops a run in its middle, resumes it, and records how its scores differ from `train`'s."""
    shutil.rmtree(RESUMED, ignore_errors=True)
    wanted = max(len(_epochs(WHOLE)) // 2, 1)
    process = _start(RESUMED, arguments)
    while process.poll() is None and len(_epochs(RESUMED)) < wanted:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stopped, epochs_before = process.wait(), len(_epochs(RESUMED))
    start = time.perf_counter()
    resumed = _start(RESUMED, [*arguments, "--resume"]).wait()
    seconds = time.perf_counter() - start
    whole, own = _epochs(WHOLE), _epochs(RESUMED)
    differences = {}
    if whole and len(own) == len(whole):
        one, other = whole[-1]["validation"], own[-1]["validation"]
        differences = {key: other[key] - one[key] for key in _SCORES if key in one and key in other}
    results.record(
        "resume",
        stopped_as_asked=stopped == signals.EXIT_CODE,
        exit=resumed,
        stopped_after_epochs=epochs_before,
        epochs=len(own),
        seconds=round(seconds, 1),
        difference=differences,
    )


def export() -> None:
    """Exports the student of `train`; the command itself compares the masks."""
    output = _WORK / "student.onnx"
    start = time.perf_counter()
    program = [sys.executable, "-m", "jaxdistill", "export", str(WHOLE), str(output)]
    code = subprocess.run(program, cwd=kits.ROOT, check=False).returncode
    seconds = time.perf_counter() - start
    size = output.stat().st_size if output.exists() else None
    results.record("export", exit=code, seconds=round(seconds, 1), bytes=size)


def _start(run: Path, arguments: Sequence[str]) -> subprocess.Popen:
    program = [sys.executable, "-m", "jaxdistill", "train", *arguments, f"run={run}"]
    return subprocess.Popen(program, cwd=kits.ROOT)


def _epochs(run: Path) -> list[dict[str, Any]]:
    path = run / run_files.METRICS
    return results.read(path) if path.exists() else []


def _summary(epochs: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    if not epochs:
        return {"epochs": 0}
    spent = [sum(each["seconds"].values()) for each in epochs]
    provenance = json.loads((WHOLE / run_files.PROVENANCE).read_text())
    last = epochs[-1]["validation"]
    return {
        "epochs": len(epochs),
        "scores": {key: round(last[key], 5) for key in _SCORES if key in last},
        "images_per_s": round(statistics.median(each["images_per_second"] for each in epochs), 1),
        # The first epoch has whatever still compiles; a run of one epoch cannot tell.
        "start_up_s": round(seconds - sum(spent) + spent[0] - statistics.median(spent), 1),
        "environment": provenance.get("Environment", {}),
    }


def main() -> None:
    """Runs one of the stages."""
    kit, folder = kits.opened()
    arguments = kits.run_settings(kit, folder)
    match sys.argv[1]:
        case "train":
            train(arguments)
        case "resume":
            resume(arguments)
        case "export":
            export()


if __name__ == "__main__":
    main()
