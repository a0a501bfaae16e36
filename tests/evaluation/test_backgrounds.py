"""Other backgrounds of images, and blurred ones."""

from pathlib import Path

import clips
import numpy as np
from PIL import Image
from refused import refused

from jaxdistill.data.image_files import find_images
from jaxdistill.evaluation import masks
from jaxdistill.evaluation.prediction_files import predict_files
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.runtime.errors import ConfigError


def test_backgrounds_are_replaced_and_blurred() -> None:
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


def test_images_get_another_background(tmp_path: Path) -> None:
    image = clips.bright_disc(8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.new("RGB", (10, 10), (200, 0, 0)).save(tmp_path / "red.png")
    red = f"background={tmp_path / 'red.png'}"
    files = find_images([str(tmp_path / "photo.png")], [])
    predict_files(Predictor(clips.Bright()), files, tmp_path / "out", kinds=[red, "blur"])
    found = np.asarray(Image.open(tmp_path / "out" / "background" / "photo.png"))
    person = image[..., 0] > 128
    assert (found[~person] == (200, 0, 0)).all()
    assert (found[person] == image[person]).all()
    with refused(ConfigError, "unknown-drawing"):
        predict_files(Predictor(clips.Bright()), files, tmp_path / "out", kinds=[red, f"{red}.png"])


def test_a_background_covers_the_narrowest_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 400), (9, 9, 9)).save(tmp_path / "narrow.png")
    Image.new("RGB", (192, 108), (200, 0, 0)).save(tmp_path / "red.png")
    files = find_images([str(tmp_path / "narrow.png")], [])
    red = f"background={tmp_path / 'red.png'}"
    predict_files(Predictor(clips.Bright()), files, tmp_path / "out", kinds=[red])
    found = np.asarray(Image.open(tmp_path / "out" / "background" / "narrow.png"))
    assert found.shape == (400, 1, 3)
    assert (found == (200, 0, 0)).all()
