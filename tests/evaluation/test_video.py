"""Masks of videos: frames, times, sound, transparency, steadiness and interruptions."""

import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from refused import refused

from jaxdistill.commands import predict
from jaxdistill.data.video import open_source
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.evaluation.video import Smoother, flicker, measure_flicker, prediction, writer
from jaxdistill.runtime.errors import ConfigError, DataError, OutputError, UserError

pytest.importorskip("av", reason="needs the video extra")
import av
import clips


def test_frames_times_and_sound_are_those_of_the_source(drawn, tmp_path: Path) -> None:
    times = [0, 40, 70, 100, 200, 230, 260, 390, 400, 440, 480, 520, 700, 701, 740, 800, 900]
    images = [clips.bright_disc(index) for index in range(len(times))]
    clip = clips.write(tmp_path / "clip.mp4", images, times)
    report = drawn(clip, kinds=["masks", "overlays"])
    assert report.frames == len(times)
    assert [path.name for path in report.outputs] == ["clip.mp4", "clip.mp4"]
    assert clips.read(report.outputs[0])[1] == times
    for mask, image in zip(clips.masks(report.outputs[0]), images, strict=True):
        assert np.mean(mask != (image[..., 0] > 128)) < 0.01
    sound, source = map(clips.sound_packets, (report.outputs[1], clip))
    assert sound == source[: len(sound)]
    assert len(sound) >= len(source) - 1  # the last one may begin after the last frame
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", "overlays"]


@pytest.mark.parametrize("video_format", ["mp4", "webm"])
def test_the_sound_ends_with_the_frames(drawn, tmp_path: Path, video_format) -> None:
    """It is copied to `mp4`, and encoded again for `webm`."""
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(i % 8) for i in range(100)])
    [path] = drawn(clip, limit=10, video_format=video_format).outputs
    with av.open(str(path)) as container:
        assert 0.4 <= container.duration / av.time_base < 0.45
    assert 15 < len(clips.sound_packets(path)) < 25


def test_sound_that_cannot_be_decoded_is_left_out(drawn, tmp_path: Path, caplog) -> None:
    clip = clips.write(tmp_path / "clip.mkv", [clips.bright_disc(0)] * 3)
    clip.write_bytes(clip.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    [path] = drawn(clip).outputs
    assert len(clips.read(path)[0]) == 3
    [message] = caplog.messages
    assert message == f"{clip}: its audio cannot be decoded, and is left out"


def test_a_video_is_not_drawn_over_itself(drawn, tmp_path: Path) -> None:
    (tmp_path / "out/masks").mkdir(parents=True)
    clip = clips.write(tmp_path / "out/masks/clip.mp4", [clips.bright_disc(0)] * 3)
    before = clip.read_bytes()
    with refused(DataError, "image-overwritten"):
        drawn(clip, kinds=["masks"])
    assert clip.read_bytes() == before


@pytest.mark.parametrize("video_format", ["mp4", "webm", "mov", "png"])
def test_videos_and_frames_of_the_user_are_not_overwritten(
    drawn, tmp_path: Path, video_format: str
) -> None:
    """Those that were drawn are, also in the same folder."""
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(0)] * 3)
    for _ in range(2):
        [target] = drawn(clip, video_format=video_format).outputs
    if video_format == "png":
        target = target / "000007.png"  # of a longer video
        Image.fromarray(clips.bright_disc(0)).save(target)
    else:
        codec = "vp8" if video_format == "webm" else "mpeg4"
        clips.write(target, [clips.bright_disc(0)], codec=codec, sound=None)
    before = target.read_bytes()
    with refused(DataError, "image-overwritten", target.name):
        drawn(clip, video_format=video_format)
    assert target.read_bytes() == before


def test_frames_of_an_earlier_and_longer_video_do_not_stay(drawn, tmp_path: Path) -> None:
    for count in (10, 4):
        images = [clips.bright_disc(index) for index in range(count)]
        clip = clips.write(tmp_path / "clip.mp4", images)
        report = drawn(clip, kinds=["masks"], video_format="png")
        assert len(list(report.outputs[0].iterdir())) == count


@pytest.mark.parametrize("size", [(47, 63), (48, 63)])
def test_odd_sizes_are_filled_up(drawn, tmp_path: Path, size) -> None:
    images = [clips.bright_disc(index, size) for index in range(3)]
    clip = clips.write(tmp_path / "clip.mkv", images, sound=None)
    [frames, _] = clips.read(drawn(clip).outputs[0])
    assert frames[0].shape == (48, 64, 3)


def test_a_rotated_video_is_drawn_upright(drawn, tmp_path: Path) -> None:
    images = [clips.bright_disc(0) for _ in range(3)]
    clip = clips.write(tmp_path / "clip.mp4", images, rotation=90)
    [mask, *_] = clips.masks(drawn(clip).outputs[0])
    assert mask.shape == (64, 48)
    assert np.mean(mask != np.rot90(images[0][..., 0] > 128)) < 0.02


def test_cutouts_are_transparent(drawn, tmp_path: Path) -> None:
    images = [clips.bright_disc(index) for index in range(10)]
    clip = clips.write(tmp_path / "clip.mp4", images)
    [path] = drawn(clip, kinds=["cutouts"]).outputs
    assert path.suffix == ".webm"
    found = clips.alpha(path)
    assert len(found) == 10
    for alpha, image in zip(found, images, strict=True):
        assert np.mean((alpha > 127) != (image[..., 0] > 128)) < 0.02
    assert clips.sound_packets(path)
    [folder] = drawn(clip, kinds=["cutouts"], video_format="png").outputs
    files = sorted(folder.iterdir())
    assert len(files) == 10
    assert Image.open(files[9]).mode == "RGBA"
    [path] = drawn(clip, kinds=["cutouts"], video_format="mov").outputs
    assert len(clips.read(path)[0]) == 10
    with refused(ConfigError, "video-without-alpha"):
        drawn(clip, kinds=["cutouts"], video_format="mp4")


def test_a_video_that_is_cut_off_is_drawn_as_far_as_it_goes(drawn, tmp_path: Path, caplog) -> None:
    images = [clips.bright_disc(i % 8) for i in range(60)]
    clip = clips.write(tmp_path / "clip.mkv", images, codec="mpeg4", sound="aac")
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    report = drawn(clip)
    assert 5 < report.frames < 60
    assert len(clips.read(report.outputs[0])[0]) == report.frames


def test_a_source_without_a_frame_is_refused(tmp_path: Path, monkeypatch) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(0)] * 3)
    with open_source(clip) as source:
        monkeypatch.setattr(source, "frames", lambda: iter(()))
        with refused(DataError, "video-without-frames", "clip.mp4"):
            prediction.predict_video(Predictor(clips.Bright()), source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_camera_is_drawn_until_it_is_stopped(tmp_path: Path, monkeypatch) -> None:
    """OpenCV reads a file as it reads a camera."""
    monkeypatch.setattr(prediction, "PART", 8)
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(i % 8) for i in range(40)])
    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened(str(clip)))
    asked = iter(range(100))
    with open_source(0) as source:
        report = prediction.predict_video(
            Predictor(clips.Bright()), source, tmp_path / "out", stop=lambda: next(asked) >= 11
        )
    assert report.frames == 12
    [frames, times] = clips.read(report.outputs[0])
    assert (len(frames), times) == (12, sorted(set(times)))
    assert not list((tmp_path / "out").glob("*.parts"))


def test_what_cannot_be_encoded_is_one_line(drawn, tmp_path: Path, monkeypatch) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(0)] * 3)
    broken = writer.ENCODINGS["mp4"]._replace(options={"crf": "-7", "preset": "none"})
    monkeypatch.setitem(writer.ENCODINGS, "mp4", broken)
    with refused(OutputError, "prediction-not-written"):
        drawn(clip)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["clip.mp4", "--as", "shadows"], "unknown-drawing"),
        (["clip.mp4", "--as", "background=none.png"], "background-unreadable"),
        (["clip.mp4", "--as", "background=none.png", "background=b.png"], "background-unreadable"),
        (["clip.mp4", "--frames", "0"], "frames"),
        (["clip.mp4", "--smooth", "1.5"], "smoothing"),
        (["clip.mp4", "--as", "cutouts", "--video-format", "mp4"], "video-without-alpha"),
        (["a/clip.mp4", "b/clip.mp4"], "image-overwritten"),
    ],
)
def test_arguments_are_checked_before_the_model_is_read(tmp_path, arguments, code) -> None:
    with pytest.raises(UserError) as error:
        predict.main([str(tmp_path / "none.onnx"), *arguments, "--output", str(tmp_path)])
    assert error.value.code == code


def test_smoothing_steadies_what_is_still_and_does_not_lag() -> None:
    random = np.random.default_rng(0)
    still = clips.bright_disc(0)
    truth = np.where(still[..., 0] > 128, 1.0, -1.0).astype(np.float32)
    noisy = [truth + random.normal(0, 1, truth.shape).astype(np.float32) for _ in range(30)]

    def unsteadiness(smoother: Callable) -> float:
        masks = [smoother(logits, still) > 0 for logits in noisy]
        pairs = itertools.pairwise(masks[10:])
        return float(np.mean([flicker(a, b, (still, still)) for a, b in pairs]))

    assert unsteadiness(Smoother(0.8)) < 0.4 * unsteadiness(lambda logits, image: logits)
    smoother = Smoother(0.9)
    for index in range(6):
        image = clips.bright_disc(3 * index)
        logits = np.where(image[..., 0] > 128, 2.0, -2.0).astype(np.float32)
        assert np.array_equal(smoother(logits, image) > 0, logits > 0)


def test_the_flicker_of_a_video_is_measured_with_and_without_smoothing(tmp_path: Path) -> None:
    """The network's masks tremble at random, although nothing moves."""
    random = np.random.default_rng(0)

    class Trembling(clips.Bright):
        def logits(self, images: np.ndarray) -> np.ndarray:
            noise = random.normal(0, 3, (*images.shape[:3], 1))
            return (super().logits(images) + noise).astype(np.float32)

    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(4)] * 30)
    with open_source(clip) as source:
        found = measure_flicker(Predictor(Trembling()), source, [0.0, 0.8])
        steady = measure_flicker(Predictor(clips.Bright()), source)
    assert found[0.0] > 0.05
    assert found[0.8] < 0.5 * found[0.0]
    assert steady == {0.0: 0.0, 0.8: 0.0}


def test_videos_are_found_by_a_glob(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.mp4").touch()
    found = predict._matches(str(tmp_path / "*.mp4"))
    assert [Path(each).name for each in found] == ["a.mp4", "b.mp4"]
    assert predict._matches("missing.mp4") == ["missing.mp4"]
    with refused(DataError, "no-such-image"):
        predict._matches(str(tmp_path / "*.mkv"))
