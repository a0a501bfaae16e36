"""Tests that need a package of an extra, in an environment that has them all.

The development environment leaves out TensorFlow, MediaPipe and the experiment trackers: they are
large, or change the packages that it has.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "ai-edge-litert>=2.0",
    "mlflow-skinny>=2.16",
    "openvino>=2026.4",
    "pillow-heif>=1.0",
    "pymatting>=1.1.14",
    "rembg>=2.0.86",
    "tensorflow>=2.20",
    "wandb>=0.18",
)
WEB = "onnxruntime-web@1.30.0"
TESTS = (
    "tests/data/test_decode.py",
    "tests/evaluation/test_foreground.py",
    "tests/exporters/test_litert.py",
    "tests/exporters/test_litert_metadata.py",
    "tests/exporters/test_recipes.py",
    "tests/litert_interop",
    "tests/reporting/test_trackers.py",
    "tests/tools/test_compare.py",
    "tests/tools/test_runtimes.py",
)


@pytest.mark.slow
def test_with_the_packages_of_the_extras(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install"]
    subprocess.run([*pip, *PACKAGES], check=True)
    # The rest of MediaPipe's requirements would bring a second OpenCV.
    subprocess.run([*pip, "--no-deps", "mediapipe>=0.10"], check=True)
    subprocess.run([*pip, "absl-py", "cffi", "sounddevice", "matplotlib"], check=True)
    if npm := shutil.which("npm"):
        subprocess.run([npm, "install", "--prefix", tmp_path, WEB], check=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-rs", "-m", "not campaign", *TESTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ONNXRUNTIME_WEB": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    expected = ["not part of the project", *([] if npm else [WEB])]
    assert all(any(reason in line for reason in expected) for line in skipped), skipped
