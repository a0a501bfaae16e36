"""Random crops: their places, what they show, and that all maps move together."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from jaxdistill import config
from jaxdistill.data import augment, image_ops
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.types import Batch, TeacherOutputs


@given(smallest=st.floats(0.01, 1), seed=st.integers(0, 2**31))
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_box_lies_in_its_image_and_is_neither_too_small_nor_too_narrow(smallest, seed):
    start, side = map(np.asarray, augment.crop_boxes(jax.random.key(seed), 64, smallest))
    assert (start >= 0).all()
    assert (start + side <= 1 + 1e-6).all()
    assert (side.prod(axis=1) >= smallest * (1 - 1e-5)).all()
    assert (np.abs(np.log(side[:, 0] / side[:, 1])) <= np.log(1.5) + 1e-5).all()


def test_boxes_are_of_all_sizes_and_in_all_places():
    start, side = map(np.asarray, augment.crop_boxes(jax.random.key(0), 4096, 0.25))
    area = side.prod(axis=1)
    np.testing.assert_allclose(
        np.quantile(area, [0.25, 0.5, 0.75]), [0.4375, 0.625, 0.8125], atol=0.02
    )
    place = start / (1 - side)
    np.testing.assert_allclose(place.mean(axis=0), 0.5, atol=0.02)
    assert np.corrcoef(place.T)[0, 1] < 0.05


def test_a_crop_of_the_whole_image_changes_nothing():
    maps = jax.random.uniform(jax.random.key(1), (2, 12, 20, 3))
    whole = augment.CropBoxes(jnp.zeros((2, 2)), jnp.ones((2, 2)))
    np.testing.assert_allclose(augment.crop(whole, maps), maps, atol=1e-6)


@pytest.mark.parametrize("size", [(24, 40), (7, 9)])
def test_a_crop_is_what_torch_samples(size):
    torch = pytest.importorskip("torch")
    maps = np.array(jax.random.normal(jax.random.key(2), (8, *size, 3)))
    parts = augment.crop_boxes(jax.random.key(3), 8, 0.3)
    start, side = (torch.from_numpy(np.array(part)) for part in parts)
    # From the output's coordinates in [-1, 1] to the input's; x before y.
    theta = torch.zeros(8, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side[:, 1], side[:, 0]
    theta[:, 0, 2], theta[:, 1, 2] = (2 * start + side - 1).flip(1).T
    theirs = torch.from_numpy(maps).permute(0, 3, 1, 2)
    grid = torch.nn.functional.affine_grid(theta, list(theirs.shape), align_corners=False)
    theirs = torch.nn.functional.grid_sample(
        theirs, grid, padding_mode="border", align_corners=False
    )
    ours = np.asarray(augment.crop(parts, maps))
    # A place of about 40 is known to 4e-6 in float32, and neighbours differ by up to 5.
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=5e-5)


def teacher(images):
    """A teacher that returns its images, at full size and at stride 4."""
    blocks = images.reshape(len(images), 16, 4, 16, 4, 3)
    return TeacherOutputs(images[..., :1], (blocks.mean(axis=(2, 4)),))


def slopes(count):
    """Images whose values are the distances from top and left; the right half is a person."""
    place = (np.arange(64) + 0.5) / 64
    rows, columns = np.meshgrid(place, place, indexing="ij")
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1) * 255
    ones = np.ones(count, np.float32)
    return Batch(
        images=np.round(image).astype(np.uint8)[None].repeat(count, 0),
        masks=(columns > 0.5).astype(np.uint8)[None, ..., None].repeat(count, 0),
        weights=ones,
        labelled=ones,
        ids=np.arange(1, count + 1),
    )


def pipeline(crop):
    return InputPipeline(teacher, augment.Augmentation("none", crop), seed=0)


def augmented(crop, step=0):
    return next(pipeline(crop)([slopes(16)], first_step=step))


def test_image_mask_and_teacher_outputs_show_the_same_part():
    seen, targets = augmented(0.3)
    images, masks = np.asarray(seen.images), np.asarray(seen.masks)
    assert np.ptp(images[:, 0, 0, :2], axis=0).min() > 0.2  # each example has a part of its own
    np.testing.assert_allclose(targets.logits, images[..., :1], atol=1e-5)
    blocks = images.reshape(16, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    # Beyond the edge of a box the coarse map has no values.
    np.testing.assert_allclose(targets.features[0], blocks, atol=0.02)
    sure = np.abs(images[..., 1:2] - 0.5) > 1 / 64
    np.testing.assert_array_equal(masks[sure], (images[..., 1:2] > 0.5)[sure])
    assert set(np.unique(masks)) == {0, 1}


def test_cached_outputs_are_cropped_in_float32():
    def cached(images):
        outputs = teacher(images)
        far = 67 * outputs.logits  # where neighbours in float16 are 1/16 apart
        return TeacherOutputs(far.astype(jnp.float16), outputs.features)

    def exact(images):
        outputs = cached(images)
        return outputs._replace(logits=outputs.logits.astype(jnp.float32))

    [own], [expected] = (
        list(InputPipeline(each, augment.Augmentation("none", 0.3), seed=0)([slopes(4)]))
        for each in (cached, exact)
    )
    np.testing.assert_array_equal(own[1].logits, expected[1].logits)


@pytest.mark.parametrize("crop", [0.3, None])
def test_an_image_keeps_its_id(crop):
    batch = slopes(16)._replace(ids=np.arange(16) + 2**33)
    [(seen, _)] = pipeline(crop)([batch])
    np.testing.assert_array_equal(seen.ids, batch.ids)


def test_crops_depend_on_the_step_and_are_off_by_default():
    first, again, later = (np.asarray(augmented(0.3, step)[0].images) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)
    whole, _ = augmented(None)
    # Not to the bit: a GPU divides by 255 in another way where it is compiled into more.
    np.testing.assert_allclose(whole.images, image_ops.to_float(slopes(16).images), atol=1e-6)


@pytest.mark.parametrize("crop", ["0", "1.5", "-0.2"])
def test_a_share_outside_of_0_to_1_is_refused(crop):
    with refused(ConfigError, "out-of-range", "data.crop"):
        config.load(tiny_run.SPECIFIED, [f"data.crop={crop}"])
