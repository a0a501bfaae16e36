"""A stage of check.py: whole training steps of the PyTorch original, eager and compiled, and ours.

A whole step is teacher, detector, student, losses and update; ours also reads and augments its
images. The contestants are those of `benchmark_step.py`. All are built before the first is
measured, then they take turns.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import benchmark_step
import kit as kits
import networks
import results
from rich.console import Console

_WORK = Path(os.environ.get("JAXDISTILL_GPU_WORK", "build/gpu_check/work"))
# Ours is built while the compiled originals, which need the CPU for a minute, are.
_NAMES = ("original", "compiled", "ours")
_ROUNDS = 3


def main() -> None:
    """Measures the whole steps of the kit."""
    kit, folder = kits.opened()
    _WORK.mkdir(parents=True, exist_ok=True)
    checkpoint = _WORK / "teacher.safetensors"
    networks.write_checkpoint(checkpoint, small=kit.small)
    with ExitStack() as running:
        place = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="whole-")))
        steps = []
        for precision, batch in kit.whole:
            args = arguments(kit, folder, checkpoint, precision, batch)
            files = benchmark_step.write_configs(args, place / f"{precision}-{batch}")
            steps.append(({"precision": precision, "batch": batch}, args, files))
        children = [{} for _ in steps]
        for name in _NAMES:
            for (_, args, files), own in zip(steps, children, strict=True):
                child = benchmark_step.Child(benchmark_step.SCRIPTS[name], files[name], args)
                own[name] = running.enter_context(child)
                if name == "ours":  # XLA and onnxruntime time algorithms: one after the other
                    _failure(child)
        for (about, args, _), own in zip(steps, children, strict=True):
            built = {}
            for name, child in own.items():
                if error := _failure(child):
                    results.record_error("whole", error, **about, contestant=name)
                else:
                    built[name] = child
            measure(about, built, args)


def arguments(
    kit: kits.Kit, folder: Path, checkpoint: Path, precision: str, batch: int
) -> argparse.Namespace:
    """Returns the arguments of `benchmark_step.py` for one comparison."""
    side = kit.networks[0]["side"]
    return benchmark_step.parser().parse_args(
        [
            *("--config", str(kits.ROOT / kits.SPECIFIED), "--batch", str(batch)),
            *("--teacher", str(folder / "networks/teacher.onnx")),
            *("--teacher-checkpoint", str(checkpoint)),
            *("--detector", str(folder / "networks/detector.onnx")),
            *("--steps", str(kit.round), "--compiler", kit.compiler),
            *kit.overrides,
            f"data.image_size=[{side}, {side}]",
            f"features.0.tensor={networks.TENSOR}",
            f"precision={precision}",
        ]
    )


def measure(
    about: dict[str, object], children: dict[str, benchmark_step.Child], args: argparse.Namespace
) -> None:
    """Measures contestants in turns and records a result for each.

    Args:
      about: What they have in common.
      children: The contestants by name.
      args: Of `benchmark_step.py`.
    """
    measured = benchmark_step.measure(children, _ROUNDS, args.steps, Console(stderr=True))
    for name, found in measured["contestants"].items():
        milliseconds = {part: round(1e3 * s, 2) for part, s in found["median"].items()}
        whole = milliseconds.pop("whole step")
        memory = found["memory"]["device"]
        results.record(
            "whole",
            **about,
            contestant=name,
            ms=whole,
            images_per_s=round(1e3 * args.batch / whole, 1),
            parts=milliseconds,
            peak_GB=memory and round(memory / 1e9, 2),
            first_step_s=round(found.get("first step", 0.0), 1) or None,
        )


def _failure(child: benchmark_step.Child) -> Exception | None:
    """Waits until a contestant is built and returns why it is not, if so."""
    try:
        child.wait()
    except Exception as error:
        return error
    return None


if __name__ == "__main__":
    main()
