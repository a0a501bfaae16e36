"""Drawing a video goes on after an interruption, and after damage to what was finished."""

from pathlib import Path

import clips
import numpy as np
import pytest
from refused import refused

from jaxdistill.runtime.errors import ConfigError

pytest.importorskip("av", reason="needs the video extra")


def check_same(found: Path, expected: Path) -> None:
    """Compares two videos by their frames, or two folders of images by their bytes.

    libx264 does not encode the same frames to the same bytes when its threads have to wait.
    """
    if found.is_dir():
        files = sorted(found.iterdir())
        assert [file.name for file in files] == sorted(file.name for file in expected.iterdir())
        for file in files:
            assert file.read_bytes() == (expected / file.name).read_bytes()
        return
    (images, times), (others, wanted) = clips.read(found), clips.read(expected)
    assert times == wanted
    for image, other in zip(images, others, strict=True):
        assert np.abs(image.astype(int) - other).mean() < 5


def nearly_still(path: Path, count: int) -> Path:
    """A video of weak noise around the threshold: smoothed masks depend on earlier frames."""
    random = np.random.default_rng(0)
    images = 128 + random.normal(0, 3, (count, 48, 64, 1)).repeat(3, axis=-1)
    return clips.write(path, [each.round().astype("uint8") for each in images])


@pytest.mark.parametrize("count", [1, 8, 16])
def test_parts_may_end_with_the_video(drawn, tmp_path: Path, count: int) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(i) for i in range(count)])
    report = drawn(clip)
    assert report.frames == len(clips.read(report.outputs[0])[0]) == count


@pytest.mark.parametrize("stops_after", [3, 10, 20])
@pytest.mark.parametrize("video_format", ["mp4", "png"])
def test_an_interrupted_video_goes_on(drawn, tmp_path: Path, stops_after, video_format) -> None:
    clip = nearly_still(tmp_path / "clip.mp4", 21)
    options = {"smoothing": 0.8, "video_format": video_format, "batch_size": 3}
    count = 0

    def stop(drawn: int) -> None:
        nonlocal count
        count += drawn
        if count >= stops_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(clip, progress=stop, **options)
    assert (tmp_path / "out" / "clip.mp4.parts").is_dir()
    report = drawn(clip, **options)
    assert (report.frames, report.resumed) == (21, stops_after // 8 * 8)
    whole = drawn(clip, tmp_path / "whole", **options)
    assert whole.resumed == 0
    for found, expected in zip(report.outputs, whole.outputs, strict=True):
        check_same(found, expected)


@pytest.mark.parametrize("name", ["state.npz", "masks.mp4"])
@pytest.mark.parametrize("share", [0, 0.6])
def test_a_part_that_was_cut_off_is_drawn_again(
    drawn, tmp_path: Path, caplog, name: str, share: float
) -> None:
    """As after a crash of the machine; what follows the part depends on it."""
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(i % 8) for i in range(30)])
    parts = tmp_path / "out" / "clip.mp4.parts"

    def stop(drawn: int) -> None:
        if (parts / "00002").is_dir():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(clip, smoothing=0.8, progress=stop)
    file = parts / "00001" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    report = drawn(clip, smoothing=0.8)
    assert (report.frames, report.resumed) == (30, 8)
    assert [message for message in caplog.messages if "drawn again" in message] == [
        f"{parts / '00001'}: this part is damaged; it is drawn again, and what follows"
    ]
    whole = drawn(clip, tmp_path / "whole", smoothing=0.8)
    check_same(report.outputs[0], whole.outputs[0])


def test_other_settings_begin_again(drawn, tmp_path: Path) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(i) for i in range(17)])

    def stop(drawn: int) -> None:
        if (tmp_path / "out" / "clip.mp4.parts" / "00000").is_dir():
            raise KeyboardInterrupt

    for other in ({"threshold": 0.6}, {"refine": "guided"}):
        with pytest.raises(KeyboardInterrupt):
            drawn(clip, progress=stop)
        assert drawn(clip, **other).resumed == 0
    with refused(ConfigError, "unknown-refinement"):
        drawn(clip, refine="sharp")
