"""Frames of videos as images without masks."""

import errno
from pathlib import Path

import numpy as np
import pytest
from refused import refused

from jaxdistill import config
from jaxdistill.data import layouts, splits
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.video import frame_at, frame_times
from jaxdistill.runtime.errors import DataError

pytest.importorskip("av", reason="needs the video extra")
import av
import clips


def settings(root: Path, **more: object) -> config.Data:
    given = {"prepared": root / "prepared", "image_size": (32, 32), "frame_step": 4, **more}
    return config.Data(root=root, **given)


def opened(root: Path, **more: object) -> Dataset:
    return splits.open_split(settings(root, **more), "train")


def test_every_fourth_frame_of_all_videos_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "train" / "more").mkdir(parents=True)
    (tmp_path / "validation").mkdir()
    images = [clips.bright_disc(index) for index in range(14)]
    times = [0, 40, 70, 100, 200, 230, 260, 390, 400, 440, 480, 520, 700, 740]
    clips.write(tmp_path / "train/b.mp4", images, times)
    clips.write(tmp_path / "train/more/a.MKV", images[:5], codec="mpeg4", sound=None)
    clips.write(tmp_path / "train/turned.mov", images[:1], rotation=90)
    (tmp_path / "train/broken.mp4").write_text("not a video")
    (tmp_path / "train/._b.mp4").write_text("what macOS keeps beside a file of that name")
    (tmp_path / "train/notes.txt").write_text("not a video either")
    clips.write(tmp_path / "validation/c.mp4", images[:1])
    assert layouts.recognise(settings(tmp_path)).settings.source == "video"
    dataset = opened(tmp_path)
    expected = {f"b.mp4/{number:06}": images[number] for number in (0, 4, 8, 12)}
    expected |= {f"more/a.MKV/{number:06}": images[number] for number in (0, 4)}
    expected["turned.mov/000000"] = np.rot90(images[0])
    assert sorted(dataset.names) == sorted(expected)
    assert dataset.ids.tolist() == list(range(1, 8))
    assert not dataset.labelled.any()
    for name, example in zip(dataset.names, dataset, strict=True):
        assert example.mask is None
        assert example.image.shape == expected[name].shape
        assert np.abs(example.image.astype(int) - expected[name]).mean() < 6, name
    [account] = dataset.accounts
    assert [(count.number, list(count.names)) for count in account.omissions] == [
        (1, ["broken.mp4"])
    ]


def test_frames_of_a_transport_stream_are_those_that_are_asked_for(tmp_path: Path) -> None:
    """FFmpeg may seek to a key frame after the one wanted."""
    shades = [np.full((48, 64, 3), 3 * index, np.uint8) for index in range(80)]
    path = clips.write(tmp_path / "clip.ts", shades, sound=None)
    times = frame_times(path)
    assert len(times) == 80
    for index in range(0, 80, 15):
        frame = frame_at(path, times[index])
        assert frame is not None
        assert abs(float(frame.mean()) - 3 * index) < 6, index


def test_another_step_or_another_video_is_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    images = [clips.bright_disc(index) for index in range(9)]
    clips.write(tmp_path / "clips/a.mp4", images)
    split = config.Split(images=Path("clips"), annotations=None)
    named = {"source": "video", "train": split, "validation": split}
    assert len(opened(tmp_path, **named)) == 3
    assert len(opened(tmp_path, **named, frame_step=1)) == 9
    clips.write(tmp_path / "clips/b.mp4", images)
    assert len(opened(tmp_path, **named)) == 6
    drawn = {"source": "video", "train": split, "validation": {"share": 0.3}, "frame_step": 1}
    both = [
        splits.open_split(settings(tmp_path, **drawn), name) for name in ("train", "validation")
    ]
    assert len({*both[0].names} | {*both[1].names}) == len(both[0]) + len(both[1]) == 18


def test_a_folder_without_a_video_that_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/broken.mp4").write_text("not a video")
    split = config.Split(images=Path("clips"), annotations=None)
    with refused(DataError, "no-images", "clips"):
        opened(tmp_path, source="video", train=split, validation=split)


def test_a_video_that_cannot_be_read_at_the_moment_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    clips.write(tmp_path / "clips/a.mp4", [clips.bright_disc(0)] * 5)
    (tmp_path / "clips/b.mp4").write_text("what a failing disk gave")
    split = config.Split(images=Path("clips"), annotations=None)
    opening = Path.open

    def fails(path: Path, *args: object, **more: object) -> object:
        if path.name == "b.mp4":
            raise OSError(errno.EIO, "Input/output error")
        return opening(path, *args, **more)

    monkeypatch.setattr(Path, "open", fails)
    with refused(DataError, "unreadable-file", "b.mp4"):
        opened(tmp_path, source="video", train=split, validation=split)


def test_a_video_that_was_cut_off_is_left_out_whatever_ffmpeg_says_of_it(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clips.write(tmp_path / "clips/a.mp4", [clips.bright_disc(0)] * 5)
    whole = clips.write(tmp_path / "whole.mkv", [clips.bright_disc(0)] * 9, sound=None).read_bytes()
    found = set()
    for length in (30, 70, 200, 400):
        path = tmp_path / "clips" / f"{length}.mkv"
        path.write_bytes(whole[:length])
        try:
            with av.open(str(path)):
                pass
        except (OSError, av.error.FFmpegError) as error:
            found.add(error.errno)
    assert errno.EIO in found  # which a failing disk gives as well
    split = config.Split(images=Path("clips"), annotations=None)
    dataset = opened(tmp_path, source="video", train=split, validation=split)
    assert {name.partition("/")[0] for name in dataset.names} == {"a.mp4"}
