"""The demo: its images, and that a student learns from them."""

import json
import subprocess
import sys
from pathlib import Path

import demo_images
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

ROOT = Path(__file__).parents[2]


def test_the_splits_share_no_background_and_no_pose() -> None:
    train, validation = demo_images.TRAIN, demo_images.VALIDATION
    assert not set(train.backgrounds) & set(validation.backgrounds)
    for low, high in train.turns:
        for other_low, other_high in validation.turns:
            assert high <= other_low or other_high <= low


@pytest.mark.parametrize("split", [demo_images.TRAIN, demo_images.VALIDATION])
def test_images_are_reproducible_and_show_people(
    split: demo_images.Split,
) -> None:
    few = split._replace(count=6)
    first, again = (list(demo_images.images(few)) for _ in range(2))
    assert len(first) == 6
    for one, other in zip(first, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.people == other.people
        assert one.image.size == (demo_images.SIDE,) * 2
        assert one.people
        for person in one.people:
            mask = rle.decode(person)
            assert mask.shape == (demo_images.SIDE,) * 2
            assert mask.sum() > 100
    assert len({drawn.image.tobytes() for drawn in first}) == 6


@pytest.mark.parametrize("name", demo_images.PEOPLE)
def test_a_mask_is_binary_and_of_full_size(name: str) -> None:
    mask = np.asarray(Image.open(demo_images.MASKS / f"{name}.png").convert("L"))
    assert mask.shape == (512, 512)
    assert set(np.unique(mask)) == {0, 255}
    assert 0.15 < (mask > 0).mean() < 0.7


@pytest.mark.slow
def test_a_student_learns_to_find_people(tmp_path: Path) -> None:
    """`make demo`, in a folder of its own."""

    def run(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout

    run("tools/demo/prepare_demo.py", tmp_path)
    printed = run(
        *("-m", "jaxdistill", "train", "--config", "demo", f"run={tmp_path}/run"),
        *(f"data.root={tmp_path}/coco", f"data.prepared={tmp_path}/prepared"),
        f"student.encoder_weights={tmp_path}/tf_efficientnet_lite0.safetensors",
        *(f"teacher.onnx={tmp_path}/teacher.onnx", f"detector.onnx={tmp_path}/teacher.onnx"),
        f"targets.cache={tmp_path}/targets",
    )
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation"]["student_miou"] > 0.85
    assert last["validation"]["agreement"] > 0.95
    assert "loss feature trains decoder, projectors" in printed
    assert str(tmp_path / "run" / "report.html") in printed.replace("\n", "")

    printed = run("tools/demo/make_page.py", tmp_path / "run", tmp_path)
    page = tmp_path / "page" / "page.json"
    if "no page: " not in printed:  # without a network, onnxruntime-web is missing
        assert len(json.loads(page.read_text())["examples"]) == 12
        assert "exists" in run("tools/demo/make_page.py", tmp_path / "run", tmp_path)
