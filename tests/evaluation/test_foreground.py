"""The persons' own colours on soft edges."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from refused import refused

from jaxdistill.commands import predict
from jaxdistill.data.image_files import find_images
from jaxdistill.evaluation.foreground import own_colours
from jaxdistill.evaluation.prediction_files import predict_files
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.runtime.errors import ConfigError

RED, BLUE = (200, 40, 30), (20, 60, 220)


def blended() -> tuple[np.ndarray, np.ndarray]:
    """A red disc with a soft edge before blue, and its alpha."""
    rows, columns = np.ogrid[:90, :120]
    disc = ((rows - 45) ** 2 + (columns - 60) ** 2 < 30**2).astype(np.float32)
    alpha = np.rint(255 * cv2.GaussianBlur(disc, (0, 0), 4)).astype(np.uint8)
    share = alpha[..., None] / 255
    return np.rint(share * RED + (1 - share) * BLUE).astype(np.uint8), alpha


class Disc:
    """A network that knows the alpha of `blended`."""

    description, size, fingerprint = "disc", (90, 120), "0" * 64

    def logits(self, images: np.ndarray) -> np.ndarray:
        alpha = np.clip(blended()[1] / 255, 1e-6, 1 - 1e-6)
        logits = np.log(alpha / (1 - alpha)).astype(np.float32)
        return np.broadcast_to(logits[None, ..., None], (len(images), *logits.shape, 1))


def test_mixed_pixels_get_the_colour_of_the_person() -> None:
    pytest.importorskip("pymatting", reason="needs the matting extra")
    image, alpha = blended()
    found = own_colours(image, alpha)
    visible = alpha > 12
    assert np.abs(image[visible].astype(int) - RED).max() > 150
    assert np.abs(found[visible].astype(int) - RED).max() < 25
    for all_or_nothing in (0, 255):
        kept = alpha == all_or_nothing
        assert np.array_equal(found[kept], image[kept])


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (5, 1), (3, 200)])
def test_every_size_is_drawn(size: tuple[int, int]) -> None:
    pytest.importorskip("pymatting", reason="needs the matting extra")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert own_colours(image, np.full(size, 100, np.uint8)).shape == image.shape


def test_what_has_no_mixed_pixels_is_left_as_it_is() -> None:
    image, alpha = blended()
    hard = np.where(alpha > 127, 255, 0).astype(np.uint8)
    assert own_colours(image, hard) is image


def test_cutouts_and_other_backgrounds_have_no_halo(tmp_path) -> None:
    pytest.importorskip("pymatting", reason="needs the matting extra")
    image, alpha = blended()
    for number in range(4):  # two are drawn at the same time
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    Image.new("RGB", (10, 10), (0, 255, 0)).save(tmp_path / "green.png")
    files = find_images([str(tmp_path / f"{number}.png") for number in range(4)], [])
    kinds = ["cutouts", f"background={tmp_path / 'green.png'}", "blur"]
    for name, foreground in (("plain", False), ("own", True)):
        predict_files(
            Predictor(Disc()),
            files,
            tmp_path / name,
            kinds=kinds,
            threshold=None,
            foreground=foreground,
        )
    edge = (alpha > 12) & (alpha < 250)
    for kind in ("cutouts", "background"):
        plain, own = (
            np.asarray(Image.open(tmp_path / name / kind / "3.png"))[edge]
            for name in ("plain", "own")
        )
        assert own[:, 2].max() < 60 < plain[:, 2].max()
    plain, own = (np.asarray(Image.open(tmp_path / n / "blur/3.png")) for n in ("plain", "own"))
    assert np.array_equal(plain, own)


def test_what_is_missing_is_said_before_the_model_is_read(tmp_path, monkeypatch) -> None:
    arguments = [str(tmp_path / "none.onnx"), "a.png", "--output", str(tmp_path), "--foreground"]
    with refused(ConfigError, "foreground-needs-soft"):
        predict.main(arguments)
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with refused(ConfigError, "extra-missing", "jaxdistill[matting]"):
        predict.main([*arguments, "--soft", "--as", "cutouts"])
