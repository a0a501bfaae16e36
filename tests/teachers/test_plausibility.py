"""Warnings about teachers whose masks are probably not what they are said to be."""

import coco_folders
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import noise_images, save, segmenter

from jaxdistill.data import coco
from jaxdistill.teachers import Combined, plausibility
from jaxdistill.teachers.onnx_teacher import Onnx
from jaxdistill.types import TeacherOutputs

IMAGES = (noise_images(8, 8, 12) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("tensor", "output", "remedy"),
    [
        ("mask", "logits", "teacher.output=probabilities"),
        ("score", "probabilities", "teacher.output=logits"),
        ("mask", "probabilities", ""),
        ("score", "logits", ""),
    ],
)
def test_values_that_do_not_fit_their_description_are_a_warning(tmp_path, tensor, output, remedy):
    path = save(segmenter(), tmp_path)
    teacher = Onnx(path, tensor=tensor, output=output)
    combined = Combined(teacher, Onnx(path, output=None, features=["inner"]))
    for each in (teacher, combined):
        lines = list(plausibility.doubts(each, IMAGES))
        assert [remedy in line for line in lines] == ([True] if remedy else [])
    assert teacher.mask.kind == output


def function(logits):
    return lambda images: TeacherOutputs(logits * jnp.ones((*images.shape[:3], 1)))


@pytest.mark.parametrize(("logits", "count"), [(-5.0, 1), (5.0, 1), (0.5, 1)])
def test_masks_that_are_empty_or_full_everywhere_are_a_warning(logits, count):
    lines = list(plausibility.doubts(function(logits), IMAGES))
    assert len(lines) == count
    assert all(line.startswith("warning: ") for line in lines)


def test_a_teacher_that_finds_something_or_has_no_mask_is_not_doubted():
    half = np.where(np.arange(12) < 6, 3.0, -3.0)[None, None, :, None]
    assert list(plausibility.doubts(function(half), IMAGES)) == []
    assert list(plausibility.doubts(lambda images: TeacherOutputs(None), IMAGES)) == []
    assert list(plausibility.doubts(None, [])) == []


def test_the_images_with_masks_are_looked_at_first(tmp_path):
    root = coco_folders.discs(tmp_path / "coco", train=4, validation=3)
    data = coco(root, unlabelled="images/val2017", image_size=32, prepared=tmp_path / "prepared")
    images = plausibility.first_images(data.train, (32, 32), count=5)
    assert images.shape == (5, 32, 32, 3)
