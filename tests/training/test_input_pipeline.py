"""Batches with teacher outputs."""

import jax
import numpy as np
import pytest
from virtual_devices import run_on_devices

from jaxdistill.data import augment
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.types import Batch, TeacherOutputs


def batch(seed: int) -> Batch:
    images = np.random.default_rng(seed).integers(0, 256, (2, 8, 8, 3), np.uint8)
    ones = np.ones(2, np.float32)
    return Batch(images, images[..., :1] // 128, ones, ones, np.arange(2))


def test_validation_outputs_are_kept_by_the_content_of_a_batch() -> None:
    """A batch is computed once, also where batches come in another order in the next epoch."""
    computed = []

    def teacher(images: jax.Array) -> TeacherOutputs:
        computed.append(images)
        return TeacherOutputs(images[..., :1])

    pipeline = InputPipeline(teacher, augment.NO_AUGMENTATION, seed=0, memoize=True)
    for epoch in ((0, 1), (1, 0), (1, 2)):
        batches = [batch(seed) for seed in epoch]
        for read, (_, outputs) in zip(batches, pipeline(batches), strict=True):
            np.testing.assert_allclose(outputs.logits, read.images[..., :1] / 255, rtol=1e-6)
    assert len(computed) == 3


def test_the_teacher_is_asked_once_for_the_first_batches() -> None:
    """Not for a batch that differs when it is read again, and not where training resumes later."""
    computed = []

    def teacher(images: jax.Array) -> TeacherOutputs:
        computed.append(images)
        return TeacherOutputs(images[..., :1])

    augmentation = augment.Augmentation("flip", 0.5)
    expected = list(InputPipeline(teacher, augmentation, seed=3)([batch(0), batch(1)]))
    computed.clear()
    pipeline = InputPipeline(teacher, augmentation, seed=3)
    whole = list(pipeline.first_outputs([batch(0), batch(7)]))
    assert [outputs.logits.shape for outputs in whole] == [(2, 8, 8, 1)] * 2
    found = list(pipeline([batch(0), batch(1)]))
    assert len(computed) == 3
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)

    list(pipeline.first_outputs([batch(0)]))
    list(pipeline([batch(0)], first_step=1))
    list(pipeline([batch(0)]))
    assert len(computed) == 6


DEVICES = """
import jax, numpy as np
from jaxdistill.data.augment import Augmentation
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.types import Batch, TeacherOutputs

images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
ones, mesh = np.ones(8, np.float32), Mesh()
batch = Batch(images, images[..., :1] // 128, ones, ones, np.arange(8))

def teacher(images):
    return TeacherOutputs(images[..., :1], (images[:, ::2, ::2],))

for augmentation in (Augmentation("light", 0.5), Augmentation("none", None)):
    [one] = InputPipeline(teacher, augmentation, seed=3)([batch])
    [four] = InputPipeline(teacher, augmentation, seed=3, rows=Mesh(4).own)([batch])
    for own, others in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(own, others, atol=1e-6)
    for each in (four[0].images, four[0].masks, *jax.tree.leaves(four[1])):
        assert [len(shard.data) for shard in each.addressable_shards] == [2] * 4
print("compared")
"""


@pytest.mark.slow
def test_several_devices_augment_and_ask_the_teacher_for_their_own_rows() -> None:
    run_on_devices(DEVICES)
