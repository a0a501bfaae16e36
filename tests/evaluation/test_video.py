"""Masks of videos: frames, times, sound, transparency, steadiness and interruptions."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from refused import refused

from jaxdistill.commands import predict
from jaxdistill.data.image_files import find_images
from jaxdistill.data.video import open_source
from jaxdistill.evaluation.prediction_files import predict_files
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.evaluation.video import Smoother, flicker, measure_flicker, prediction, writer
from jaxdistill.runtime.errors import ConfigError, DataError, OutputError, UserError

pytest.importorskip("av", reason="needs the video extra")
import av
import clips


class Bright:
    """A network whose logit is positive where the image is bright."""

    description, size, fingerprint = "bright", (48, 64), "0" * 64

    def logits(self, images: np.ndarray) -> np.ndarray:
        return (images.astype(np.float32).mean(-1, keepdims=True) - 128) / 16


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws a video, in parts of 8 frames."""
    monkeypatch.setattr(prediction, "PART", 8)

    def drawn(clip: Path, output: Path = tmp_path / "out", **options: Any) -> Any:
        with open_source(clip) as source:
            return prediction.predict_video(Predictor(Bright()), source, output, **options)

    return drawn


def masks_of(path: Path) -> list[np.ndarray]:
    return [frame[..., 0] > 127 for frame in clips.read(path)[0]]


def test_frames_times_and_sound_are_those_of_the_source(drawn, tmp_path: Path) -> None:
    times = [0, 40, 70, 100, 200, 230, 260, 390, 400, 440, 480, 520, 700, 701, 740, 800, 900]
    images = [clips.bright_disc(index) for index in range(len(times))]
    clip = clips.write(tmp_path / "clip.mp4", images, times)
    report = drawn(clip, kinds=["masks", "overlays"])
    assert report.frames == len(times)
    assert [path.name for path in report.outputs] == ["clip.mp4", "clip.mp4"]
    assert clips.read(report.outputs[0])[1] == times
    for mask, image in zip(masks_of(report.outputs[0]), images, strict=True):
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


@pytest.mark.parametrize("count", [1, 8, 16])
def test_parts_may_end_with_the_video(drawn, tmp_path: Path, count: int) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(i) for i in range(count)])
    report = drawn(clip)
    assert report.frames == len(clips.read(report.outputs[0])[0]) == count


@pytest.mark.parametrize("size", [(47, 63), (48, 63)])
def test_odd_sizes_are_filled_up(drawn, tmp_path: Path, size) -> None:
    images = [clips.bright_disc(index, size) for index in range(3)]
    clip = clips.write(tmp_path / "clip.mkv", images, sound=None)
    [frames, _] = clips.read(drawn(clip).outputs[0])
    assert frames[0].shape == (48, 64, 3)


def test_a_rotated_video_is_drawn_upright(drawn, tmp_path: Path) -> None:
    images = [clips.bright_disc(0) for _ in range(3)]
    clip = clips.write(tmp_path / "clip.mp4", images, rotation=90)
    [mask, *_] = masks_of(drawn(clip).outputs[0])
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


@pytest.mark.parametrize("stops_after", [3, 10, 20])
@pytest.mark.parametrize("video_format", ["mp4", "png"])
def test_an_interrupted_video_goes_on(drawn, tmp_path: Path, stops_after, video_format) -> None:
    noise = np.random.default_rng(0)
    images = [
        np.clip(clips.bright_disc(i // 4) + noise.normal(0, 40, (48, 64, 3)), 0, 255).astype(
            "uint8"
        )
        for i in range(21)
    ]
    clip = clips.write(tmp_path / "clip.mp4", images)
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
        files = sorted(found.iterdir()) if found.is_dir() else [found]
        for file in files:
            other = expected / file.name if found.is_dir() else expected
            assert file.read_bytes() == other.read_bytes()


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
    assert report.outputs[0].read_bytes() == whole.outputs[0].read_bytes()


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
            prediction.predict_video(Predictor(Bright()), source, tmp_path / "out")
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
            Predictor(Bright()), source, tmp_path / "out", stop=lambda: next(asked) >= 11
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


def test_backgrounds_are_replaced_and_blurred() -> None:
    from jaxdistill.evaluation import masks

    image = clips.bright_disc(8)
    image[::4] = 0
    mask = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None].repeat(48, 0)
    blurred = np.asarray(masks.draw_blur(image, mask))
    assert np.array_equal(blurred[:, :32], image[:, :32])
    rows = blurred[10:-10, 40:60].astype(float)
    assert rows.std(0).mean() < 0.3 * image[10:-10, 40:60].std(0).mean()
    red = np.full((10, 90, 3), (200, 0, 0), np.uint8)
    replaced = np.asarray(masks.draw_on_background(image, mask, red))
    assert (replaced[:, 32:] == (200, 0, 0)).all()
    assert np.array_equal(replaced[:, :32], image[:, :32])


def test_the_flicker_of_a_video_is_measured_with_and_without_smoothing(tmp_path: Path) -> None:
    """The network's masks tremble at random, although nothing moves."""
    random = np.random.default_rng(0)

    class Trembling(Bright):
        def logits(self, images: np.ndarray) -> np.ndarray:
            noise = random.normal(0, 3, (*images.shape[:3], 1))
            return (super().logits(images) + noise).astype(np.float32)

    clip = clips.write(tmp_path / "clip.mp4", [clips.bright_disc(4)] * 30)
    with open_source(clip) as source:
        found = measure_flicker(Predictor(Trembling()), source, [0.0, 0.8])
        steady = measure_flicker(Predictor(Bright()), source)
    assert found[0.0] > 0.05
    assert found[0.8] < 0.5 * found[0.0]
    assert steady == {0.0: 0.0, 0.8: 0.0}


def test_images_get_another_background(tmp_path: Path) -> None:
    image = clips.bright_disc(8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.new("RGB", (10, 10), (200, 0, 0)).save(tmp_path / "red.png")
    red = f"background={tmp_path / 'red.png'}"
    files = find_images([str(tmp_path / "photo.png")], [])
    predict_files(Predictor(Bright()), files, tmp_path / "out", kinds=[red, "blur"])
    found = np.asarray(Image.open(tmp_path / "out" / "background" / "photo.png"))
    person = image[..., 0] > 128
    assert (found[~person] == (200, 0, 0)).all()
    assert (found[person] == image[person]).all()
    with refused(ConfigError, "unknown-drawing"):
        predict_files(Predictor(Bright()), files, tmp_path / "out", kinds=[red, f"{red}.png"])


def test_a_background_covers_the_narrowest_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 400), (9, 9, 9)).save(tmp_path / "narrow.png")
    Image.new("RGB", (192, 108), (200, 0, 0)).save(tmp_path / "red.png")
    files = find_images([str(tmp_path / "narrow.png")], [])
    red = f"background={tmp_path / 'red.png'}"
    predict_files(Predictor(Bright()), files, tmp_path / "out", kinds=[red])
    found = np.asarray(Image.open(tmp_path / "out" / "background" / "narrow.png"))
    assert found.shape == (400, 1, 3)
    assert (found == (200, 0, 0)).all()


def test_videos_are_found_by_a_glob(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.mp4").touch()
    found = predict._matches(str(tmp_path / "*.mp4"))
    assert [Path(each).name for each in found] == ["a.mp4", "b.mp4"]
    assert predict._matches("missing.mp4") == ["missing.mp4"]
    with refused(DataError, "no-such-image"):
        predict._matches(str(tmp_path / "*.mkv"))
