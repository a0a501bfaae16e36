"""The clip whose truth is known: its masks move as its frames do; a network is measured on it."""

from pathlib import Path
from typing import Any

import coco_folders
import numpy as np
import pytest
import tiny_run

pytest.importorskip("av", reason="needs the video extra")
import clip

from jaxdistill.data.dataset import Example
from jaxdistill.data.video import open_source
from jaxdistill.evaluation import video
from jaxdistill.evaluation.video import VideoReport

SIZE = (72, 128)


def test_the_truth_of_each_frame_is_what_it_shows(tmp_path: Path) -> None:
    rows, columns = np.ogrid[:120, :160]
    disc = (rows - 55) ** 2 + (columns - 70) ** 2 < 30**2
    image = np.where(disc[..., None], (240, 230, 220), (20, 30, 40)).astype(np.uint8)
    example = Example(image, np.where(disc, 255, 0).astype(np.uint8))
    path = tmp_path / "clip.mp4"
    clip.write_clip(path, [example], clip.SHOT + 5, SIZE)
    with open_source(path) as source:
        frames = [frame.image for frame in source.frames()]
    assert len(frames) == clip.SHOT + 5
    masks = [clip.truth([example], index, SIZE) for index in range(len(frames))]
    for frame, mask in zip(frames, masks, strict=True):
        assert np.mean((frame.mean(-1) > 130) != mask) < 0.02
    assert np.mean(masks[0] != masks[clip.MOVING]) > 0.1
    assert np.array_equal(masks[clip.MOVING], masks[clip.SHOT - 1])
    assert np.array_equal(masks[0], masks[clip.SHOT])


def test_a_network_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = coco_folders.discs(tmp_path / "coco")
    network = tiny_run.network(tmp_path / "bright.onnx")
    options = ["--output-kind", "logits", "--normalization", "unit", "--size", "64", "64"]
    size = ["--frames", "34", "--clip-size", *map(str, SIZE), "--long-frames", "0"]
    output = ["--root", str(root), "--output", str(tmp_path / "out")]
    limits: list[int | None] = []

    def predict_video(*args: Any, limit: int | None, **kwargs: Any) -> VideoReport:
        limits.append(limit)
        return video.predict_video(*args, limit=limit, **kwargs)

    monkeypatch.setattr(clip, "predict_video", predict_video)
    clip.main([str(network), *output, *size, *options])
    assert limits == [clip.RATE, None] * 4  # what compiles is not timed
    lines = capsys.readouterr().out.splitlines()
    [true] = [line for line in lines if line.startswith("| the truth")]
    assert true.split("|")[3:6] == [" 1.0000 ", " 1.0000 ", " 0.0000 "]
    assert sum(line.startswith(("| off", "| 0.8")) for line in lines) == 8
