"""What an image costs on its way to the GPU, and what resizing does to its mask."""

from pathlib import Path

import benchmark_input
import coco_folders
import numpy as np
import pytest
import resized_masks

from jaxdistill.runtime.errors import command


def test_every_stage_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = coco_folders.discs(tmp_path / "coco", 3, 1)
    data = [
        f"data.root={root}",
        f"data.prepared={tmp_path / 'prepared'}",
        "data.image_size=[64,64]",
    ]
    small = ["--images", "3", "--rounds", "1", "--batch", "2", "--stored", "48", "64"]
    benchmark_input.main([*data, *small])
    printed = capsys.readouterr().out
    # 8 x 8 x 1024 and a mask of 64 x 64, and five maps, in float16.
    assert "read cached targets: 0.1 MB per image" in printed
    assert "read them with the encoder's maps: 0.2 MB per image" in printed
    assert printed.count("ms per image") == 9
    assert "714 images/s" in printed


def test_an_augmented_batch_counts_all_of_its_images() -> None:
    assert benchmark_input._augmentation("flip", (32, 32), batch=4, count=6)() == 8
    taken = benchmark_input._medians({"some": lambda: 8, "none": lambda: 10**9}, rounds=1)
    assert taken["none"] < taken["some"]


def test_an_empty_mask_has_no_centre_and_is_left_out() -> None:
    whole, tiny, empty = np.zeros((3, 64, 64), np.uint8)
    whole[10:50, 20:40] = 255
    tiny[33, 33] = 255  # vanishes at 16 x 16
    assert [mask is whole for mask in resized_masks.filled([empty, whole, tiny], 16)] == [True]
    for row in resized_masks.measure([whole], 16).values():
        assert np.isfinite(row).all()


@pytest.mark.parametrize("main", [resized_masks.main, benchmark_input.main])
def test_a_missing_folder_is_named_in_one_line(main, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data.root=nowhere" if main is benchmark_input.main else "nowhere"]
    assert command(lambda: main(arguments)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "nowhere" in line
