"""What the exported page's tests in a browser share: students, a photo, and what they need."""

import importlib.util
from pathlib import Path

import numpy as np
import page_rate
import pytest
from PIL import Image
from small_student import randomised, small_student

from jaxdistill.data import image_ops
from jaxdistill.evaluation.predictor import from_model
from jaxdistill.models import Student

BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(page_rate.chromium_path() is None, reason="needs Chromium"),
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
        for name in ("playwright", "skimage")
    ),
]
"""Marks of the tests' modules."""
SIZE = (128, 160)
PARTS = ("read", "resize", "network", "mask", "draw")


def portrait() -> np.ndarray:
    import skimage

    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return np.asarray(Image.open(path).convert("RGB"))[:, :500]


def random_student(seed: int = 0) -> Student:
    """A student with ragged masks, half of which is a person."""
    student = randomised(small_student(), seed)
    image = image_ops.resize_image(portrait(), SIZE)
    logits = from_model(student, SIZE).logits(image[None])
    scale = 10 / logits.std()  # many probabilities are 0 or 1
    student.head.kernel[...] *= scale
    student.head.bias[...] = scale * (student.head.bias[...] - np.median(logits))
    return student
