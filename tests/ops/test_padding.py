"""Padding of convolutions, and no negative padding in a student's programs."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from negative_padding import negative_paddings
from small_student import small_student

from jaxdistill import config
from jaxdistill.models.parameters import partition
from jaxdistill.ops.convolution import plain
from jaxdistill.ops.padding import resolve_padding


@given(
    st.sampled_from(["symmetric", "same"]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.integers(1, 40),
)
def test_padding_is_smaller_than_the_kernel(kind, size, stride, length) -> None:
    """So that the padding of the input's gradient is not negative."""
    before, after = resolve_padding(kind, size, stride, length)
    assert 0 <= before <= after < size
    if kind == "same":
        assert (length + before + after - size) // stride + 1 == -(-length // stride)


def test_negative_padding_is_found() -> None:
    def gradient(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.grad(lambda x: plain(x, kernel, ((3, 1), (2, 2))).sum())(x)

    x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 2))
    text = jax.jit(gradient).lower(x, kernel).compiler_ir(dialect="hlo").as_hlo_text()
    [line] = negative_paddings(text)
    assert " convolution(" in line


def program_of(encoder: str, image_size: tuple[int, int]) -> "jax.stages.Lowered":
    """A step forward and backward through a student of which everything is trained."""
    parts = partition(small_student(settings=config.Student(encoder=encoder)), [])

    def loss(params: dict, images: jax.Array) -> jax.Array:
        return parts._replace(params=params).merge()(images, train=True).logits.mean()

    images = jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(parts.params, images)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["timm-efficientnet-b0", "tf_efficientnet_b0"])
def test_a_student_has_no_negative_padding(encoder: str) -> None:
    text = program_of(encoder, (64, 96)).compiler_ir(dialect="hlo").as_hlo_text()
    assert text.count(" convolution(") > 20
    assert negative_paddings(text) == []
