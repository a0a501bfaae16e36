"""Resizing and normalisation against torch, and what must hold of every mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.data import image_ops

SIZES = [((37, 53), (64, 96)), ((64, 96), (37, 53)), ((32, 32), (64, 32)), ((5, 7), (1, 1))]
METHODS = ("area", "nearest")
sides = st.integers(1, 40)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("unit", (0, 0, 0), (1, 1, 1)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("bytes", (0, 0, 0), (1 / 255, 1 / 255, 1 / 255)),
        (config.MeanStd(mean=(0.1, 0.2, 0.3), std=(1, 2, -3)), (0.1, 0.2, 0.3), (1, 2, -3)),
    ],
)
def test_each_channel_is_normalised_by_its_own_mean_and_deviation(name, mean, std):
    images = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    normalised = jax.jit(image_ops.normalize, static_argnums=1)(images, image_ops.resolve(name))
    expected = (images.astype(np.float64) - mean) / std
    np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-6)
    assert normalised.dtype == jnp.float32


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("antialias", [False, True])
def test_resize_is_torch_interpolate(old, new, antialias):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(1).random((2, *old, 3), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps).permute(0, 3, 1, 2),
        new,
        mode="bilinear",
        align_corners=False,
        antialias=antialias,
    ).permute(0, 2, 3, 1)
    resized = image_ops.resize(maps, new, antialias=antialias)
    np.testing.assert_allclose(resized, expected.numpy(), atol=1e-5)


def test_resize_to_the_same_size_changes_nothing():
    maps = jnp.ones((1, 8, 6, 2))
    assert image_ops.resize(maps, (8, 6)) is maps


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_images_are_resized_as_torch_does_within_a_grey_level(old, new):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(2).integers(0, 256, (*old, 3), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None],
        new,
        mode="bilinear",
        align_corners=False,
    )[0].permute(1, 2, 0)
    resized = image_ops.resize_image(image, new)
    assert resized.dtype == np.uint8
    assert np.abs(resized - expected.numpy()).max() <= 1


@given(sides, sides, st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_mask_grows_by_repeating_its_pixels_and_shrinks_back_to_itself(h, w, down, across, seed):
    mask = np.random.default_rng(seed).integers(0, 256, (h, w), np.uint8)
    binary = (mask >= 128).astype(np.uint8)
    for method in METHODS:
        grown = image_ops.resize_mask(mask, (h * down, w * across), method)
        np.testing.assert_array_equal(grown, np.kron(binary, np.ones((down, across), np.uint8)))
        np.testing.assert_array_equal(image_ops.resize_mask(grown * 255, (h, w), method), binary)
        assert grown.dtype == np.uint8


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_nearest_is_that_of_torch(old, new):
    torch = pytest.importorskip("torch")
    mask = np.random.default_rng(3).integers(0, 256, old, np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(mask).float()[None, None], new, mode="nearest"
    )[0, 0]
    resized = image_ops.resize_mask(mask, new, "nearest")
    np.testing.assert_array_equal(resized, expected.numpy() > 127.5)


@given(sides, sides, sides, sides, st.integers(0, 2**32 - 1))
def test_area_is_the_share_of_an_output_pixel(h, w, new_h, new_w, seed):
    new_h, new_w = min(h, new_h), min(w, new_w)
    mask = np.random.default_rng(seed).integers(0, 2, (h, w), np.uint8) * 255
    fine = np.kron(mask // 255, np.ones((new_h, new_w), np.int64))
    covered = fine.reshape(new_h, h, new_w, w).sum((1, 3))
    resized = image_ops.resize_mask(mask, (new_h, new_w))
    np.testing.assert_array_equal(resized, covered > h * w / 2)


@given(sides, sides, sides, sides, st.integers(0, 2**32 - 1))
def test_a_growing_side_takes_the_nearest_centre(h, w, more_h, more_w, seed):
    torch = pytest.importorskip("torch")
    mask = np.random.default_rng(seed).integers(0, 256, (h, w), np.uint8)
    tensor, size = torch.from_numpy(mask)[None, None], (2 * h + more_h, 2 * w + more_w)
    expected = torch.nn.functional.interpolate(tensor, size, mode="nearest-exact")[0, 0].numpy()
    centres = [
        (2 * np.arange(new) + 1) * old % (2 * new) for new, old in zip(size, (h, w), strict=True)
    ]
    clear = np.ix_(*(place > 0 for place in centres))  # torch rounds where a centre is on an edge
    resized = image_ops.resize_mask(mask, size)
    np.testing.assert_array_equal(resized[clear], expected[clear] > 127)


@given(sides, sides, st.integers(0, 2**32 - 1))
def test_mirrored_masks_stay_mirrored(h, w, seed):
    mask = np.random.default_rng(seed).integers(0, 256, (h, w), np.uint8)
    size = (max(1, h // 2), max(1, w // 3))
    resized = image_ops.resize_mask(mask, size)
    turned = image_ops.resize_mask(mask[::-1, ::-1].copy(), size)
    np.testing.assert_array_equal(turned, resized[::-1, ::-1])


def test_a_resized_mask_lies_on_its_image():
    """The images of a disc and of its mask have one centre; `nearest` moves the mask."""
    y, x = np.mgrid[:128, :192]
    mask = (((y - 63.5) ** 2 + (x - 95.5) ** 2 < 40**2) * 255).astype(np.uint8)
    for size in [(64, 96), (48, 72), (51, 77)]:
        picture = image_ops.resize_image(np.repeat(mask[..., None], 3, 2), size)[..., 0]
        aligned, moved = (centre(image_ops.resize_mask(mask, size, m)) for m in METHODS)
        assert np.abs(aligned - centre(picture)).max() < 0.01
        assert np.abs(moved - centre(picture)).min() > 0.2


def centre(image):
    """The centre of mass, in pixels."""
    return np.array(
        [(image * axis).sum() / image.sum() for axis in np.mgrid[: len(image), : image.shape[1]]]
    )


@given(sides, sides, st.sampled_from([0, 255]))
def test_a_uniform_mask_stays_uniform(h, w, value):
    resized = image_ops.resize_mask(np.full((h, w), value, np.uint8), (17, 23))
    assert (resized == value // 255).all()
