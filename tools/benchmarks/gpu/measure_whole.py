"""A stage of check.py: whole training steps of the PyTorch original, eager and compiled, and ours.

A whole step is teacher, detector, student, losses and update; ours also reads and augments its
images. The contestants are those of `benchmark_step.py`. The GPU is nobody else's, so they need not
take turns: each is measured when it is built, and ended, since those of a large batch would not fit
the memory together. Only the compiled originals are built beside the others, which takes PyTorch
minutes; ours may be the slower for that, and is measured before they are, should time be short.
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


class Contestants:
    """The contestants of one precision and batch.

    Args:
      kit: What is measured.
      folder: The kit.
      checkpoint: The teacher's, for the original.
      precision: `float32` or `bfloat16`.
      batch: Number of images.
      place: A folder for configurations and images.
    """

    def __init__(
        self,
        kit: kits.Kit,
        folder: Path,
        checkpoint: Path,
        precision: str,
        batch: int,
        place: Path,
    ) -> None:
        self._about = {"precision": precision, "batch": batch, **results.settings()}
        self._args = arguments(kit, folder, checkpoint, precision, batch)
        self._files = benchmark_step.write_configs(self._args, place / f"{precision}-{batch}")

    def start(self, name: str) -> benchmark_step.Child:
        """Starts to build a contestant."""
        command = benchmark_step.SCRIPTS[name]
        return benchmark_step.Child(command, self._files[name], self._args)

    def measure(self, name: str, child: benchmark_step.Child) -> None:
        """Measures a contestant when it is built, records the result, and ends it."""
        about = {**self._about, "contestant": name}
        try:
            with child:
                self._record(about, child)
        except Exception as error:
            results.record_error("whole", error, **about)

    def _record(self, about: dict[str, object], child: benchmark_step.Child) -> None:
        quiet = Console(quiet=True)
        measured = benchmark_step.measure({"it": child}, 1, self._args.steps, quiet)
        found = measured["contestants"]["it"]
        milliseconds = {part: round(1e3 * value, 2) for part, value in found["median"].items()}
        whole, memory = milliseconds.pop("whole step"), found["memory"]["device"]
        results.record(
            "whole",
            **about,
            ms=whole,
            images_per_s=round(1e3 * self._args.batch / whole, 1),
            parts=milliseconds,
            peak_GB=memory and round(memory / 1e9, 2),
            first_step_s=round(found.get("first step", 0.0), 1) or None,
        )


def main() -> None:
    """Measures the whole steps of the kit."""
    kit, folder = kits.opened()
    _WORK.mkdir(parents=True, exist_ok=True)
    checkpoint = _WORK / "teacher.safetensors"
    networks.write_checkpoint(checkpoint, small=kit.small)
    with ExitStack() as running:
        place = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="whole-")))
        comparisons = [
            Contestants(kit, folder, checkpoint, precision, batch, place)
            for precision, batch in kit.whole
        ]
        compiled = []
        for each in comparisons:
            compiled.append(each.start("compiled"))
            each.measure("original", each.start("original"))
        for each in comparisons:
            each.measure("ours", each.start("ours"))
        for each, child in zip(comparisons, compiled, strict=True):
            each.measure("compiled", child)


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
            *("--steps", str(kit.whole_steps), "--compiler", kit.compiler),
            *kit.overrides,
            f"data.image_size=[{side}, {side}]",
            f"features.0.tensor={networks.TENSOR}",
            f"precision={precision}",
        ]
    )


if __name__ == "__main__":
    main()
