import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import teachers
from jaxdistill.teachers import base
from jaxdistill.teachers.base import OutputShapes
from jaxdistill.teachers.memo import OutputsMemo
from jaxdistill.types import TeacherOutputs


def brightness(images: jax.Array) -> TeacherOutputs:
    """A teacher of one function: logits from the brightness, and one feature map."""
    grey = images.mean(-1, keepdims=True)
    return TeacherOutputs(10 * grey - 5, (grey[:, ::8, ::8].repeat(4, -1),))


class Declared:
    """A teacher with every optional member."""

    def __init__(self) -> None:
        features = {"file": "bb", "tensors": ["x"]}
        self.provenance: Any = {"logits": {"file": "aa"}, "features": features}

    def __call__(self, images: jax.Array) -> TeacherOutputs:
        raise AssertionError("not run")

    def output_shapes(self, image_size: tuple[int, int]) -> OutputShapes:
        return OutputShapes((*image_size, 1), ((2, 3, 4),))

    def describe(self) -> list[str]:
        return ["declared"]

    def restrict(self, *, logits: bool, features: bool) -> Any:
        return (logits, features)


def test_a_function_is_a_teacher() -> None:
    shapes = base.output_shapes(brightness, (32, 64))
    assert shapes == OutputShapes((32, 64, 1), ((4, 8, 4),))
    assert base.feature_shapes(brightness, (32, 64)) == shapes.features
    assert base.describe_teacher(brightness) == ["teacher: test_base.brightness"]
    assert base.provenance_of(brightness) == {"callable": "test_base.brightness"}
    assert not base.has_provenance(brightness)
    assert base.file_fingerprints(brightness) == {}


def test_declared_members_are_used() -> None:
    teacher = Declared()
    assert base.output_shapes(teacher, (8, 8)) == OutputShapes((8, 8, 1), ((2, 3, 4),))
    assert base.provenance_of(teacher) == Declared().provenance
    assert base.output_provenance(teacher, "features") == {"file": "bb", "tensors": ["x"]}
    assert base.file_fingerprints(teacher) == {"teacher": "aa", "detector": "bb"}
    assert base.describe_teacher(teacher) == ["declared"]
    assert base.restrict(teacher, logits=False) == (False, True)


def test_a_flat_provenance_belongs_to_every_output() -> None:
    teacher = Declared()
    teacher.provenance = {"file": "cc"}
    assert base.output_provenance(teacher, "logits") == {"file": "cc"}


def test_without_a_teacher_there_is_nothing() -> None:
    assert base.output_shapes(None, (8, 8)) == OutputShapes()
    assert base.describe_teacher(None) == []
    assert base.provenance_of(None) == {}
    assert base.restrict(None) is None


def test_a_function_is_restricted_to_itself_or_nothing() -> None:
    assert base.restrict(brightness, logits=False) is brightness
    assert base.restrict(brightness, logits=False, features=False) is None


def test_importing_the_protocol_imports_no_onnxruntime() -> None:
    check = (
        "import sys, jaxdistill.teachers, jaxdistill.teachers.base, jaxdistill.teachers.memo; "
        "sys.exit('onnxruntime' in sys.modules or 'onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(teachers, name) is not None for name in teachers.__all__)
    with pytest.raises(AttributeError):
        _ = teachers.Nothing


class Counted:
    """Counts its batches."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, images: jax.Array, *more: Any) -> TeacherOutputs:
        self.batches += 1
        return brightness(images)


def images(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random((2, 16, 16, 3), np.float32))


def test_a_memo_computes_a_batch_once() -> None:
    counted = Counted()
    memo = OutputsMemo(counted)
    for _ in range(3):
        for seed in (0, 1):
            outputs = memo(images(seed), key=seed)
            jax.tree.map(np.testing.assert_array_equal, outputs, brightness(images(seed)))
    assert counted.batches == 2
    assert memo.bytes == 2 * 4 * (2 * 16 * 16 + 2 * 2 * 2 * 4)


def test_a_memo_stays_within_its_bound() -> None:
    counted = Counted()
    one = 4 * (2 * 16 * 16 + 2 * 2 * 2 * 4)
    memo = OutputsMemo(counted, max_bytes=one)
    for _ in range(2):
        for seed in (0, 1):
            memo(images(seed), "more", key=seed)
    assert counted.batches == 3
    assert memo.bytes == one
