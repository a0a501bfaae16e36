"""The command `predict`: its files for every kind of image, and what it skips or refuses.

The network marks bright pixels, so that the expected mask follows from the image itself.
"""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from onnx_models import save, segmenter
from PIL import Image, ImageOps
from refused import refused

from jaxdistill.commands import predict
from jaxdistill.runtime.errors import DataError, NetworkError, command

FREE = ["--output-kind", "logits", "--normalization", "unit", "--size", "64", "64"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.network(tmp_path_factory.mktemp("network") / "bright.onnx")


def sample_image(height: int = 90, width: int = 60) -> Image.Image:
    """Grey from 30 to 60, and a bright rectangle in the upper left quarter, without symmetry."""
    pixels = np.random.default_rng(0).integers(30, 60, (height, width, 3), np.uint8)
    pixels[height // 9 : height // 2, width // 6 : width // 2] = (250, 240, 230)
    return Image.fromarray(pixels)


def overlap(mask: np.ndarray, shown: Image.Image) -> float:
    """IoU of a mask with the bright part of what a viewer shows."""
    bright = np.asarray(ImageOps.exif_transpose(shown).convert("L")) > 127
    assert mask.shape == bright.shape
    return ((mask > 127) & bright).sum() / ((mask > 127) | bright).sum()


def run(network: Path, *arguments: object) -> int:
    return predict.main([str(network), *map(str, arguments), *FREE])


def mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        assert not image.getexif()
        return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_fits_the_image_as_a_viewer_shows_it(
    network: Path, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sample_image().save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert run(network, tmp_path / "a.jpg", "--output", tmp_path / "out") == 0
    found = mask(tmp_path / "out/masks/a.png")
    assert set(np.unique(found)) == {0, 255}
    assert overlap(found, Image.open(tmp_path / "a.jpg")) > 0.9


def variants() -> dict[str, Image.Image]:
    plain = sample_image()
    clear = plain.convert("RGBA")
    clear.putalpha(128)
    deep = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    return {
        "rgb.png": plain,
        "alpha.png": clear,
        "grey.png": plain.convert("L"),
        "deep.png": deep,
        "palette.png": plain.quantize(64),
        "cmyk.jpg": plain.convert("CMYK"),
        "web.webp": plain,
        "scan.tif": plain,
        "ünï cödé [1].png": plain,
        "wide.png": sample_image(40, 300),
        "small.png": sample_image(20, 20),
    }


def test_every_kind_of_image_is_predicted(network: Path, tmp_path: Path) -> None:
    for name, image in variants().items():
        image.save(tmp_path / name)
    given = ["--output", tmp_path / "out", "--as", "masks", "overlays", "cutouts"]
    assert run(network, tmp_path, *given, "--batch-size", 3) == 0
    for name, image in variants().items():
        made = Path(name).with_suffix(".png")
        shown = image if name != "deep.png" else sample_image()
        found = mask(tmp_path / "out/masks" / made)
        assert overlap(found, shown) > 0.8, name
        cutout = Image.open(tmp_path / "out/cutouts" / made)
        assert cutout.mode == "RGBA"
        assert np.array_equal(np.asarray(cutout)[..., 3], found)
        assert not np.asarray(cutout)[found == 0].any()
        overlay = Image.open(tmp_path / "out/overlays" / made)
        assert (overlay.mode, overlay.size) == ("RGB", image.size)


def test_a_cutout_keeps_the_pixels_and_an_overlay_everything_far_from_persons(
    network: Path, tmp_path: Path
) -> None:
    sample_image().save(tmp_path / "a.png")
    run(network, tmp_path / "a.png", "--output", tmp_path, "--as", "cutouts", "overlays")
    before = np.asarray(sample_image())
    cutout = np.asarray(Image.open(tmp_path / "cutouts/a.png"))
    seen = cutout[..., 3] == 255
    assert seen.any()
    assert np.array_equal(cutout[seen][:, :3], before[seen])
    overlay = np.asarray(Image.open(tmp_path / "overlays/a.png"))
    assert np.array_equal(overlay[60:], before[60:])
    assert np.abs(overlay[20:40, 15:25].astype(int) - before[20:40, 15:25]).min(0).max() > 20


def test_batches_and_their_padding_change_nothing(network: Path, tmp_path: Path) -> None:
    for number in range(5):
        sample_image(50 + 7 * number, 80).save(tmp_path / f"{number}.png")
    for size in (1, 2, 16):
        given = ["--output", tmp_path / f"out{size}", "--batch-size", size, "--soft"]
        assert run(network, *sorted(tmp_path.glob("*.png")), *given) == 0
    for number in range(5):
        one, two, many = (mask(tmp_path / f"out{size}/masks/{number}.png") for size in (1, 2, 16))
        assert np.array_equal(one, two)
        assert np.array_equal(one, many)


def test_a_single_image_is_predicted_without_a_warning(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="absl")  # which training silences
    sample_image().save(tmp_path / "a.png")
    assert run(network, tmp_path / "a.png", "--output", tmp_path / "out") == 0
    assert not caplog.messages


def test_soft_masks_are_probabilities_which_a_threshold_divides(
    network: Path, tmp_path: Path
) -> None:
    ramp = np.repeat(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], 64, 0)
    Image.fromarray(np.repeat(ramp, 3, 2)).save(tmp_path / "ramp.png")
    given = [tmp_path / "ramp.png", "--output"]
    run(network, *given, tmp_path / "soft", "--soft")
    soft = mask(tmp_path / "soft/masks/ramp.png")[32].astype(float)
    logits = 10 * np.linspace(0, 1, 256) - 5  # what `tiny_run.network` makes of grey
    assert np.abs(soft - 255 / (1 + np.exp(-logits))).max() < 4
    for threshold in (0.1, 0.5, 0.9):
        run(network, *given, tmp_path / "hard", "--threshold", threshold)
        hard = mask(tmp_path / "hard/masks/ramp.png")[32] > 0
        assert np.count_nonzero(hard != (soft > 255 * threshold)) <= 2


def test_logits_and_probabilities_give_the_same_masks(tmp_path: Path) -> None:
    """The same network by two of its tensors; its masks have half the size of the image."""
    path = save(segmenter(), tmp_path)
    sample_image().save(tmp_path / "a.png")
    common = [str(path), str(tmp_path / "a.png"), "--normalization", "half", "--size", "64", "48"]
    for tensor, kind in (("score", "logits"), ("mask", "probabilities")):
        output = ["--output", str(tmp_path / kind), "--soft"]
        assert predict.main([*common, *output, "--tensor", tensor, "--output-kind", kind]) == 0
    one, other = (
        mask(tmp_path / kind / "masks/a.png").astype(int) for kind in ("logits", "probabilities")
    )
    assert one.std() > 10
    assert np.abs(one - other).mean() < 3


def test_the_size_of_the_file_is_used_where_it_is_fixed(tmp_path: Path) -> None:
    path = save(segmenter(batch=1, height=32, width=64), tmp_path)
    sample_image().save(tmp_path / "a.png")
    given = [str(path), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    assert predict.main([*given, "--output-kind", "probabilities"]) == 0
    with pytest.raises(NetworkError) as caught:
        predict.main([*given, "--output-kind", "probabilities", "--size", "64", "64"])
    assert caught.value.code == "onnx-size"


def test_a_tilde_is_the_home_folder(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(network.parent))
    sample_image().save(tmp_path / "a.png")
    given = [f"~/{network.name}", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    assert predict.main([*given, "--output-kind", "logits", "--size", "32", "32"]) == 0


@pytest.mark.parametrize("kinds", [["masks"], ["overlays", "masks"]])
def test_a_mask_of_the_user_is_not_overwritten(
    network: Path, tmp_path: Path, kinds: list[str]
) -> None:
    for name in ("images/1.jpg", "images/2.jpg", "masks/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sample_image().convert("L").save(tmp_path / name)
    before = (tmp_path / "masks/2.png").read_bytes()
    with refused(DataError, "image-overwritten", "masks/2.png"):
        run(network, tmp_path / "images", "--output", tmp_path, "--as", *kinds)
    assert (tmp_path / "masks/2.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["2.png"]


def test_results_of_an_earlier_command_are_replaced(network: Path, tmp_path: Path) -> None:
    """In a folder where other files are, and where one is what an interrupted command leaves."""
    for name in ("a", "b"):
        sample_image().save(tmp_path / f"{name}.jpg")
    (tmp_path / "out/masks").mkdir(parents=True)
    sample_image().save(tmp_path / "out/masks/other.png")
    (tmp_path / "out/masks/b.png").touch()
    kinds = ["--as", "masks", "overlays", "cutouts", "blur"]
    for threshold in (0.5, 0.9):
        given = ["--output", tmp_path / "out", "--threshold", threshold, *kinds]
        assert run(network, tmp_path / "a.jpg", tmp_path / "b.jpg", *given) == 0
        assert mask(tmp_path / "out/masks/b.png").any()


def hostile(folder: Path) -> list[str]:
    """Writes files that cannot be read as images, and returns their names."""
    whole = io.BytesIO()
    sample_image(300, 300).save(whole, "PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[:2000])
    (folder / "empty.jpg").touch()
    (folder / "words.jpg").write_text("This is not an image.")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tif")
    bomb = bytearray(whole.getvalue())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # what the header declares; its sum is wrong now
    (folder / "bomb.png").write_bytes(bomb)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return ["cut.png", "empty.jpg", "words.jpg", "float.tif", "bomb.png", "gone.jpg"]


def test_files_that_cannot_be_read_are_named_and_skipped(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = hostile(tmp_path)
    sample_image().save(tmp_path / "good.png")
    sample_image(1, 1).save(tmp_path / "dot.png")
    (tmp_path / "notes.txt").write_text("not an image, by its name either")
    assert run(network, tmp_path, "--output", tmp_path / "out", "--batch-size", 2) == 1
    lines = capsys.readouterr().err.splitlines()
    skipped = [line for line in lines if line.startswith("skipped")]
    assert len(skipped) == len(broken)
    for name in broken:
        assert sum(f"/{name}: " in line for line in skipped) == 1
    assert lines[-1].startswith("2 images")
    assert lines[-1].endswith(f"{len(broken)} skipped")
    assert {p.name for p in (tmp_path / "out/masks").iterdir()} == {"good.png", "dot.png"}
    assert mask(tmp_path / "out/masks/dot.png").shape == (1, 1)


def test_images_of_other_formats_are_named_and_counted(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample_image().save(tmp_path / "1.jfif", "JPEG")
    (tmp_path / "2.jp2").write_bytes(b"not decoded here")
    assert run(network, tmp_path, "--output", tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["1.png"]
    printed = capsys.readouterr().err
    assert "2.jp2" in printed
    assert "1 skipped" in printed


def test_a_decompression_bomb_is_refused_by_the_size_that_it_declares(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black = Image.new("1", (20_000, 20_000))  # some 50 kB
    black.save(tmp_path / "bomb.png")
    assert run(network, tmp_path / "bomb.png", "--output", tmp_path / "out") == 1
    assert "20000 x 20000" in capsys.readouterr().err


def test_a_file_name_that_is_not_unicode(network: Path, tmp_path: Path) -> None:
    """File names are bytes; the printed ones are text."""
    name = b"\xff.jpg".decode(errors="surrogateescape")
    try:
        (tmp_path / name).write_text("not an image")
    except OSError:
        pytest.skip("this file system has none")
    sample_image().save(tmp_path / name.replace("jpg", "png"))
    given = [str(network), str(tmp_path), "--output", str(tmp_path / "out"), *FREE]
    done = subprocess.run(
        [sys.executable, "-m", "jaxdistill", "predict", *given],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"not an image" in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(list((tmp_path / "out/masks").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{net}", "{dir}/none.jpg", *FREE], "no-such-image"),
        (["{net}", "{dir}/a.png", "--size", "64", "64"], "unknown-output-kind"),
        (["{net}", "{dir}/a.png", "--output-kind", "logits"], "unknown-input-size"),
        (["{net}", "{dir}/a.png", *FREE, "--tensor", "maskk"], "onnx-unknown-tensor"),
        (["{net}", "{dir}/a.png", *FREE, "--tensor", "inner"], "teacher-channels"),
        (["{net}", "{dir}/a.png", *FREE, "--channel", "1"], "teacher-channels"),
        (["{net}", "{dir}/a.png", *FREE, "--layout", "nhwc"], "onnx-layout"),
        (["{net}", "{dir}/a.png", *FREE, "--size", "0", "64"], "input-size"),
        (["{net}", "{dir}/a.png", *FREE, "--threshold", "1"], "threshold"),
        (["{net}", "{dir}/a.png", *FREE, "--refine", "sharp"], "unknown-refinement"),
        (["{net}", "{dir}/a.png", *FREE, "--batch-size", "0"], "batch-size"),
        (["{dir}/a.png", "{dir}/a.png"], "unknown-model-format"),
        (["{dir}/text.onnx", "{dir}/a.png"], "onnx-damaged"),
        (["{dir}", "{dir}/a.png"], "not-a-run"),
        (["{net}", "{dir}/a.png", *FREE, "--output", "{dir}/a.png"], "prediction-not-written"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    network: Path,
    tmp_path: Path,
    arguments: list[str],
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample_image().save(tmp_path / "a.png")
    (tmp_path / "text.onnx").write_text("no network")
    filled = [argument.format(net=network, dir=tmp_path) for argument in arguments]
    if "--output" not in filled:
        filled += ["--output", str(tmp_path / "out")]
    assert command(lambda: predict.main(filled)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert error.endswith(f"[{code}]")
    assert not (tmp_path / "out").exists()
