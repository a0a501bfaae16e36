"""Augmentation: what each kind promises, and each operation against a library that has it too."""

import colorsys
import functools
import io

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxdistill.data import augment
from jaxdistill.data.augment import corruption, keys, photometric, pipeline, weather

EQUALISE, COMPRESS = jax.jit(photometric.equalise), jax.jit(corruption.compress)
KINDS = ("none", "flip", "light", "heavy")
OPERATIONS = sorted(
    {op for stages in pipeline.STAGES.values() for _, ops in stages for op in ops},
    key=lambda operation: operation.__name__,
)


def scene(height=64, width=96):
    """Smooth colours with a few edges, in [0, 1]."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(rows / 9 + k) * np.cos(columns / 13 - 2 * k) for k in range(3)]
    image = np.stack(waves, -1) * 0.3 + 0.5
    image[height // 3 : height // 2, width // 4 : width // 2] *= 0.3
    return image.astype(np.float32)


def halves(count, height=32, width=48):
    """Images dark on the left, where the mask is, and bright on the right."""
    mask = np.zeros((count, height, width, 1), np.float32)
    mask[:, :, : width // 2] = 1
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (count, height, width, 3))
    return (0.8 - 0.6 * mask + noise).astype(np.float32), mask


def image_keys(count):
    return jax.random.split(jax.random.key(7), count)


@functools.cache
def _compiled(operation):
    return jax.jit(lambda keys, image: jax.lax.map(lambda key: operation(key, image), keys))


def apply(operation, image, count):
    """The operation's result for each of `image_keys(count)`."""
    return np.asarray(_compiled(operation)(image_keys(count), jnp.asarray(image)))


def augmented(key, images, masks, kind):
    rows = augment.Rows.of_process(len(images))
    return augment.augment(key, images, masks, kind, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_images_stay_in_range_and_masks_stay_binary_and_move_with_their_images(kind):
    images, masks = halves(16)
    flipped = 0
    for seed in range(8):
        changed, moved, *_ = augmented(jax.random.key(seed), images, masks, kind)
        assert (changed.shape, changed.dtype) == (images.shape, jnp.float32)
        assert (moved.shape, moved.dtype) == (masks.shape, jnp.float32)
        assert np.isfinite(changed).all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        for image, mask in zip(np.asarray(changed), np.asarray(moved), strict=True):
            left = np.array_equal(mask, masks[0])
            assert left or np.array_equal(mask, masks[0][:, ::-1])
            inside = image[np.broadcast_to(mask, image.shape) == 1].mean()
            outside = image[np.broadcast_to(mask, image.shape) == 0].mean()
            assert inside < outside
            flipped += not left
    assert flipped == 0 if kind == "none" else 40 < flipped < 88


def test_none_changes_nothing():
    images, masks = halves(16)
    changed, moved, *_ = augmented(jax.random.key(0), images, masks, "none")
    np.testing.assert_array_equal(changed, images)
    np.testing.assert_array_equal(moved, masks)


@pytest.mark.parametrize("kind", ["light", "heavy"])
def test_an_example_depends_on_key_place_and_image_alone(kind):
    images, masks = halves(16)
    images[:] = images[0]
    first, *_ = augmented(jax.random.key(0), images, masks, kind)
    again, *_ = augmented(jax.random.key(0), images, masks, kind)
    other, *_ = augmented(jax.random.key(1), images, masks, kind)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    distinct = {np.asarray(image).tobytes() for image in first}
    assert len(distinct) > 10  # the same image sixteen times; each has its own changes
    images[1:] = 0
    neighbours, *_ = augmented(jax.random.key(0), images, masks, kind)
    np.testing.assert_array_equal(first[0], neighbours[0])


def test_examples_computed_together_equal_those_computed_in_turn():
    """A CPU computes them one after the other, an accelerator together."""
    images, _ = halves(16)
    key = jax.random.key(3)
    own = keys.fold(key, keys.PHOTOMETRIC)
    example_keys = jax.vmap(lambda place: jax.random.fold_in(own, place))(jnp.arange(16))
    together = jax.jit(
        jax.vmap(lambda *example: pipeline._apply_stages(*example, pipeline.STAGES["light"]))
    )(example_keys, images)
    np.testing.assert_allclose(together, augment.apply_photometric(key, images, "light"), atol=1e-5)


def test_all_kinds_that_flip_flip_the_same_examples():
    images, masks = halves(16)
    key = jax.random.key(5)
    flipped = augment.flips(key, 16, "flip")
    assert 0 < flipped.sum() < 16
    only, *_ = augmented(key, images, masks, "flip")
    np.testing.assert_array_equal(
        only, np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    )
    _, light, *_ = augmented(key, images, masks, "light")
    np.testing.assert_array_equal(light[:, 0, 0, 0] == 0, flipped)
    assert not augment.flips(key, 16, "none").any()


@pytest.mark.parametrize("kind", KINDS)
def test_flips_on_the_host_are_those_of_the_step(kind):
    for seed, step in ((0, 0), (5, 1), (2**32 - 1, 10**6)):
        on_host = augment.flips_on_host(seed, step, 16, kind)
        assert isinstance(on_host, np.ndarray)
        drawn = augment.flips(augment.step_key(seed, step), 16, kind)
        np.testing.assert_array_equal(on_host, drawn)


def test_flips_on_the_host_need_no_cpu_backend(monkeypatch):
    expected = augment.flips_on_host(3, 4, 16, "flip")

    def missing(backend):
        raise RuntimeError(f"unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    np.testing.assert_array_equal(augment.flips_on_host(3, 4, 16, "flip"), expected)


def test_a_process_gets_its_rows_of_what_is_drawn_for_the_whole_batch():
    images, masks = halves(16)
    key = augment.step_key(0, 0)
    whole = augment.augment(key, images, masks, "light", augment.Rows(0, 16, 16))
    part = augment.augment(key, images[8:], masks[8:], "light", augment.Rows(8, 16, 16))
    for all_rows, own in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_rows[8:], own)


def test_only_kinds_that_change_colours_are_photometric():
    photometric_kinds = [kind for kind in KINDS if augment.Augmentation(kind, None).is_photometric]
    assert photometric_kinds == ["light", "heavy"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_each_operation_changes_the_image_and_keeps_it_recognisable(operation):
    image = scene()
    changed = apply(operation, image, 8)
    assert changed.shape == (8, *image.shape)
    for one in np.clip(changed, 0, 1):
        assert np.isfinite(one).all()
        assert not np.array_equal(one, image)
        assert np.corrcoef(one.ravel(), image.ravel())[0, 1] > 0.6


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_images_stay_finite(operation, level):
    assert np.isfinite(apply(operation, np.full((64, 96, 3), level, np.float32), 8)).all()


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_hue_saturation_and_value_are_those_of_the_standard_library(rgb):
    pixel = np.array(rgb, np.float32)[None, None] / 255
    hsv = photometric.rgb_to_hsv(pixel)
    np.testing.assert_allclose(hsv[0, 0], colorsys.rgb_to_hsv(*pixel[0, 0].tolist()), atol=1e-5)
    np.testing.assert_allclose(photometric.hsv_to_rgb(hsv), pixel, atol=1e-5)


def test_grey_stays_grey_when_hue_and_saturation_change():
    grey = np.linspace(0, 1, 64 * 96, dtype=np.float32).reshape(64, 96, 1).repeat(3, -1)
    changed = apply(photometric.hue_saturation_value, grey, 8)
    np.testing.assert_allclose(np.ptp(changed, axis=-1), 0, atol=1e-6)


@pytest.mark.parametrize("limit", [1.0, 2.0, 4.0, 40.0])
def test_equalisation_is_opencvs(limit):
    grey = np.round(scene(512, 640)[..., 0] * 255).astype(np.uint8)
    expected = cv2.createCLAHE(limit, (8, 8)).apply(grey)
    equalised = np.asarray(EQUALISE(grey.astype(np.float32) / 255, limit)) * 255
    # OpenCV counts in whole pixels, the rest of them for the darkest bins, and sees the tiles half
    # a pixel off.
    assert np.abs(equalised - expected).mean() < 1.5
    assert np.abs(equalised - expected).max() < 8
    assert np.abs(equalised - grey).mean() > 5


def test_gaussian_blur_is_opencvs():
    for key, blurred in zip(
        image_keys(8), apply(corruption.gaussian_blur, scene(), 8), strict=True
    ):
        deviation = float(jax.random.uniform(key, minval=0.4, maxval=1.6))
        expected = cv2.GaussianBlur(scene(), (9, 9), deviation, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_median_blur_is_opencvs():
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    blurred = apply(corruption.median_blur, noise.astype(np.float32), 8)
    np.testing.assert_array_equal(blurred[0], cv2.medianBlur(noise, 3))


def test_motion_blur_spreads_a_point_along_a_line_and_keeps_its_light():
    point = np.zeros((64, 96, 3), np.float32)
    point[16, 16] = 1
    for line in apply(corruption.motion_blur, point, 8)[..., 0]:
        rows, columns = np.nonzero(line)
        assert line.sum() == pytest.approx(1)
        assert max(np.ptp(rows), np.ptp(columns)) in range(1, 9)
        offset = np.stack([rows, columns]) - 16
        spread = np.linalg.eigvalsh(offset @ offset.T)
        assert spread[0] <= 0.15 * spread[1] + 0.5  # thin, whatever its direction


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_compression_is_libjpegs(quality):
    image = np.round(scene() * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(file)).astype(np.float32)
    compressed = np.asarray(COMPRESS(image.astype(np.float32) / 255, float(quality))) * 255
    loss = np.abs(expected - image).mean()
    # libjpeg rounds to whole grey levels in between.
    assert np.abs(compressed - expected).mean() < 0.6 * loss
    assert np.abs(compressed - image).mean() == pytest.approx(loss, rel=0.25)


def test_an_image_of_any_size_is_compressed_as_one_with_repeated_borders() -> None:
    """As libjpeg completes its blocks; with fewer maps of an encoder, sides are multiples of 8."""
    image = np.random.default_rng(0).uniform(size=(24, 40, 3)).astype(np.float32)
    completed = np.pad(image, ((0, 8), (0, 8), (0, 0)), "edge")
    found, whole = COMPRESS(image, 50.0), COMPRESS(completed, 50.0)
    assert found.shape == image.shape
    np.testing.assert_allclose(found, whole[:24, :40], atol=1e-5)


def test_noise_is_stronger_where_there_is_more_light():
    image = np.concatenate([np.full((32, 96, 3), level, np.float32) for level in (0.1, 0.9)])
    for noise in apply(corruption.sensor_noise, image, 8) - image:
        assert abs(noise.mean()) < 2e-3
        assert noise[:32].std() < noise[32:].std() < 0.1


def test_downscaling_repeats_pixels_and_makes_none():
    image = np.arange(64 * 96, dtype=np.float32).reshape(64, 96, 1).repeat(3, -1)
    for scaled in apply(corruption.downscale, image, 8):
        kept = np.unique(scaled)
        assert np.isin(kept, image).all()
        assert 0.3**2 < kept.size / (64 * 96) < 0.87**2


def test_fog_and_flare_lighten_and_rain_darkens():
    image = scene() * 0.5
    assert (apply(weather.fog, image, 8).mean((1, 2, 3)) > image.mean()).all()
    assert (apply(weather.rain, image, 8).mean((1, 2, 3)) < image.mean()).all()
    assert (apply(weather.flare, image, 8) >= image - 1e-6).all()
