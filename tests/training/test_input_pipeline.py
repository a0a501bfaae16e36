"""Batches with teacher outputs."""

import jax
import numpy as np

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
