"""Guided upsampling against its definition, and what it does to edges."""

import cv2
import numpy as np
import pytest
from refused import refused

from jaxdistill import evaluation
from jaxdistill.evaluation import masks
from jaxdistill.evaluation.refinement import _EPSILON, _RADIUS, REFINEMENTS, guided
from jaxdistill.runtime.errors import ConfigError

RANDOM = np.random.default_rng(0)


def windows(values: np.ndarray) -> np.ndarray:
    """The window around each pixel, of shape (H, W, n, ...)."""
    around = [(_RADIUS, _RADIUS)] * 2 + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, around, mode="reflect")
    side = range(2 * _RADIUS + 1)
    height, width = values.shape[:2]
    return np.stack([padded[y : y + height, x : x + width] for y in side for x in side], 2)


def reference(logits: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The filter as its authors define it, where image and logits have one size; in float64."""
    colours = windows(image.astype(np.float64))
    values = windows(1 / (1 + np.exp(-logits.astype(np.float64))))
    centred = colours - colours.mean(2, keepdims=True)
    covariance = np.einsum("hwni,hwnj->hwij", centred, centred) / centred.shape[2]
    right = np.einsum("hwni,hwn->hwi", centred, values) / centred.shape[2]
    slope = np.linalg.solve(covariance + _EPSILON * np.eye(3), right[..., None])[..., 0]
    offset = values.mean(2) - (slope * colours.mean(2)).sum(-1)
    return (windows(slope).mean(2) * image).sum(-1) + windows(offset).mean(2)


@pytest.mark.parametrize("contrast", [0, 1, 40, 255])
def test_it_is_the_guided_filter(contrast: int) -> None:
    image = RANDOM.integers(0, contrast + 1, (20, 30, 3)).astype(np.uint8)
    logits = RANDOM.normal(0, 3, (20, 30)).astype(np.float32)
    expected = np.clip(reference(logits, image), 0, 1)
    np.testing.assert_allclose(guided(logits, image), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (7, 5), (300, 500)])
def test_every_size_and_every_image_gives_probabilities(size: tuple[int, int]) -> None:
    logits = RANDOM.normal(0, 30, (16, 24)).astype(np.float32)
    grey = RANDOM.integers(0, 256, (*size, 1), np.uint8).repeat(3, 2)
    for image in (grey, np.full((*size, 3), 255, np.uint8), grey // 128 * 255):
        found = guided(logits, image)
        assert (found.shape, found.dtype) == (size, np.float32)
        assert np.isfinite(found).all()
        assert found.min() >= 0
        assert found.max() <= 1


def test_edges_follow_the_image() -> None:
    rows, columns = np.ogrid[:480, :640]
    disc = (rows - 240) ** 2 + (columns - 300) ** 2 < 150**2
    image = np.where(disc[..., None], (200, 160, 140), (60, 90, 120)).astype(np.uint8)
    image = np.clip(image + RANDOM.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    coarse = cv2.resize(disc.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
    logits = 8 * coarse - 4
    plain = masks.binary_mask(logits, disc.shape, 0.5)
    assert np.mean((guided(logits, image) > 0.5) != disc) < 0.2 * np.mean(plain != disc)


class Bright:
    """A network whose logit is positive where the image is bright."""

    description, size, fingerprint = "bright", (48, 64), "0" * 64

    def logits(self, images: np.ndarray) -> np.ndarray:
        return (images.astype(np.float32).mean(-1, keepdims=True) - 128) / 16


def test_a_predictor_refines() -> None:
    predictor = evaluation.Predictor(Bright())
    image = RANDOM.integers(0, 256, (50, 70, 3), np.uint8)
    [logits] = predictor.padded_logits([cv2.resize(image, (64, 48))], 1)
    soft = predictor.predict(image, soft=True, refine="guided")
    assert np.array_equal(soft, guided(logits, image))
    assert np.array_equal(predictor.predict(image, 0.3, refine="guided"), soft > 0.3)
    with refused(ConfigError, "unknown-refinement"):
        predictor.predict(image, refine="sharp")


def test_a_refinement_of_ones_own_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = lambda logits, image: np.ones(image.shape[:2], np.float32)  # noqa: E731
    monkeypatch.setitem(REFINEMENTS._entries, "everywhere", everywhere)
    found = evaluation.Predictor(Bright()).predict(
        np.zeros((9, 9, 3), np.uint8), refine="everywhere"
    )
    assert found.all()
