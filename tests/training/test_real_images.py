"""A short run on real images, with a real teacher and real ImageNet weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_student_learns_to_find_people(shared, imagenet_encoder: Path, tmp_path: Path) -> None:
    """Four epochs of the recommended thirty, which bring it beyond its teacher."""
    people, teacher = shared("data", "people"), shared("models", "u2netp.onnx")
    settings = [
        f"run={tmp_path}/run",
        f"data.root={people}",
        f"data.prepared={tmp_path}/prepared",
        f"student.encoder_weights={imagenet_encoder}",
        f"teacher.onnx={teacher}",
        f"detector.onnx={teacher}",
        f"targets.cache={tmp_path}/targets",
        "training.epochs=4",
    ]
    config = ROOT / "configs" / "recommended.yaml"
    train = [sys.executable, "-m", "jaxdistill.train", "--config", config, *settings]
    subprocess.run(train, check=True, cwd=tmp_path)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation"]["teacher_miou"] == pytest.approx(0.926, abs=0.002)
    assert last["validation"]["student_miou"] > 0.85
    assert last["validation"]["agreement"] > 0.93
