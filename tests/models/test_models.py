"""The student's networks: shapes, sizes, padding, and the rule of what is frozen."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import weights
from jaxdistill.models.encoders.efficientnet import VARIANTS, EfficientNet, variant
from jaxdistill.models.feature_pairs import Pair, describe_sizes, pair_up, tap_stride
from jaxdistill.models.layers import BatchNorm, Conv, conv_norm
from jaxdistill.models.student import Student, build, flat_variables, freeze, param_group
from jaxdistill.runtime.errors import UserError

HALF = image_ops.resolve("half")
SMALL = config.Student(encoder="tf_efficientnet_lite0", decoder_channels=(16, 8, 8, 4, 4))


def random_student(settings: config.Student, pairs: Sequence[Pair] = ()) -> Student:
    return Student(settings, HALF, pairs, rngs=nnx.Rngs(0))


def parameters(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_the_specification_s_student_has_the_original_s_size() -> None:
    student = random_student(config.Student())
    assert parameters(student) == 6_251_469
    assert parameters(student.encoder) == 4_007_548


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("timm-efficientnet-b0", (32, 24, 40, 112, 320)),
        ("timm-efficientnet-b1", (32, 24, 40, 112, 320)),
        ("timm-efficientnet-b2", (32, 24, 48, 120, 352)),
        ("timm-efficientnet-b3", (40, 32, 48, 136, 384)),
        ("tf_efficientnet_lite0", (32, 24, 40, 112, 320)),
    ],
)
def test_taps_have_the_family_s_channels_and_strides(name: str, channels: tuple[int, ...]) -> None:
    encoder = EfficientNet(variant(name), rngs=nnx.Rngs(0))
    assert encoder.channels == channels
    taps = nnx.eval_shape(lambda e, x: e(x, train=False), encoder, jnp.zeros((1, 64, 96, 3)))
    assert [tap.shape for tap in taps] == [
        (1, 64 // stride, 96 // stride, c)
        for stride, c in zip((2, 4, 8, 16, 32), channels, strict=True)
    ]


def test_every_tap_has_the_stride_that_its_name_promises() -> None:
    student = random_student(SMALL)
    taps = nnx.eval_shape(lambda s, x: s.taps(x, train=False), student, jnp.zeros((1, 64, 96, 3)))
    for name, tap in taps.items():
        stride = tap_stride(name)
        assert tap.shape == (1, 64 // stride, 96 // stride, student.tap_channels[name])


def test_an_unknown_encoder_or_tap_is_answered_with_what_there_is() -> None:
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        variant("resnet50")
    with pytest.raises(UserError, match=r"decoder\.4"):
        tap_stride("decoder.5")
    assert "timm-efficientnet-b3" in VARIANTS


def test_a_feature_map_that_fits_no_tap_is_shown_beside_it() -> None:
    feature = config.Feature(tensor="inner", tap="encoder.3")
    with pytest.raises(UserError) as caught:
        pair_up([feature], [(20, 20, 64)], (320, 320))
    assert "20x20" in str(caught.value)
    assert "40x40" in str(caught.value)
    assert "encoder.4, decoder.0" in str(caught.value)
    assert "features.0.resize: true" in str(caught.value)
    assert pair_up([feature], [(40, 40, 64)], (320, 320)) == [Pair("encoder.3", 64, 768)]


def test_a_tap_is_brought_to_the_tensor_s_size_where_that_is_asked_for() -> None:
    """Several pairs, at several strides, up and down; who has the size already is left alone."""
    taps = ["decoder.3", "encoder.5", "encoder.3"]
    features = [
        config.Feature(tensor="t", tap=tap, hidden_channels=None, resize=True) for tap in taps
    ]
    pairs = pair_up(features, [(8, 12, 5)] * 3, (64, 96))
    assert [pair.size for pair in pairs] == [(8, 12), (8, 12), None]
    assert describe_sizes(pairs, (64, 96)) == [
        "features.0: decoder.3 is brought from 32 x 48 to 8 x 12",
        "features.1: encoder.5 is brought from 2 x 3 to 8 x 12",
    ]
    student = random_student(SMALL, pairs)
    images = jax.random.uniform(jax.random.key(0), (1, 64, 96, 3))
    outputs, taps = nnx.jit(
        lambda student, x: (student(x, train=False), student.taps(x, train=False))
    )(student, images)
    assert [projected.shape for projected in outputs.projected] == [(1, 8, 12, 5)] * 3
    # A 1x1 convolution and an interpolation may be exchanged.
    projected = student.projectors[0](taps["decoder.3"], train=False)
    expected = image_ops.resize(projected, (8, 12), antialias=True)
    np.testing.assert_allclose(outputs.projected[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [7, 8, 9])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_same_padding_is_xla_s(length: int, size: int, stride: int) -> None:
    conv = Conv(2, 3, size, stride=stride, padding="same", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, length, length, 2))
    expected = jax.lax.conv_general_dilated(
        x, conv.kernel[...], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-6)


def test_a_folded_norm_equals_convolution_then_norm() -> None:
    rng = np.random.default_rng(0)
    conv, norm = Conv(4, 6, 3, rngs=nnx.Rngs(0)), BatchNorm(6, eps=1e-3)
    norm.mean[...] = jnp.asarray(rng.normal(size=6), jnp.float32)
    norm.var[...] = jnp.asarray(rng.uniform(0.5, 2, 6), jnp.float32)
    norm.scale[...] = jnp.asarray(rng.normal(size=6), jnp.float32)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    folded = conv_norm(conv, norm, x, train=False)
    np.testing.assert_allclose(folded, norm(conv(x), train=False), rtol=1e-5, atol=1e-5)


def test_batch_norm_keeps_the_unbiased_variance() -> None:
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 5)).astype(np.float32)
    norm = BatchNorm(5)
    y = norm(jnp.asarray(x), train=True)
    flat = x.reshape(-1, 5)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(5), atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_the_rule_divides_every_variable_once() -> None:
    student = random_student(SMALL, [Pair("encoder.3", 8, None)])
    split = freeze(student, ["encoder", "decoder.blocks.0"])
    parts = (split.params, split.batch_stats, split.frozen)
    assert sum(map(len, parts)) == len(flat_variables(student))
    assert all(name.startswith(("encoder.", "decoder.blocks.0.")) for name in split.frozen)
    assert {name.partition(".")[0] for name in split.params} == {
        "decoder",
        "head",
        "projectors",
    }
    assert all(name.endswith(("mean", "var")) for name in split.batch_stats)


def test_a_prefix_is_a_whole_name() -> None:
    student = random_student(SMALL, [Pair("encoder.3", 8, None)] * 11)
    split = freeze(student, ["projectors.1"])
    assert {name.split(".")[1] for name in split.frozen} == {"1"}


def test_a_rule_that_matches_nothing_is_refused() -> None:
    student = random_student(SMALL)
    with pytest.raises(UserError, match="'encodr' matches no parameter"):
        freeze(student, ["encodr"])
    with pytest.raises(UserError, match="nothing is left to train"):
        freeze(student, ["encoder", "decoder", "head"])


def test_encoder_weights_come_back_with_their_normalization(tmp_path) -> None:
    source = Student(SMALL, HALF, rngs=nnx.Rngs(7))
    arrays = {
        k: np.asarray(v) for k, v in flat_variables(source).items() if k.startswith("encoder")
    }
    path = tmp_path / "lite0.safetensors"
    metadata = {
        "encoder": "tf_efficientnet_lite0",
        "normalization": weights.format_normalization(HALF),
    }
    weights.save(path, arrays, metadata)
    built = build(SMALL.model_copy(update={"encoder_weights": path}))
    assert built.normalization == HALF
    for name, value in flat_variables(built).items():
        if name.startswith("encoder."):
            np.testing.assert_array_equal(value, arrays[name])

    other = config.Student(encoder="tf_efficientnet_b0", encoder_weights=path)
    with pytest.raises(UserError, match="holds weights of 'tf_efficientnet_lite0'"):
        build(other)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        build(SMALL.model_copy(update={"encoder_weights": path}))
    arrays.pop("encoder.conv_stem.kernel")
    weights.save(path, arrays, metadata)
    with pytest.raises(UserError, match=r"1 missing \(encoder.conv_stem.kernel\)"):
        build(SMALL.model_copy(update={"encoder_weights": path}))


def test_a_student_starts_from_a_whole_student_s_weights(tmp_path) -> None:
    source = Student(SMALL, HALF, [Pair("encoder.3", 8, None)], rngs=nnx.Rngs(7))
    arrays = {name: np.asarray(value) for name, value in flat_variables(source).items()}
    path = tmp_path / "student.safetensors"
    weights.save(path, arrays, {"encoder": "tf_efficientnet_lite0"})
    built = build(SMALL.model_copy(update={"weights": path}), [Pair("encoder.3", 5, None)])
    for name, value in flat_variables(built).items():
        if param_group(name) != "projectors":
            np.testing.assert_array_equal(value, arrays[name])
    wider = SMALL.model_copy(update={"weights": path, "decoder_channels": (16, 8, 8, 4, 6)})
    with pytest.raises(UserError, match=r"of another shape \(decoder.blocks.4"):
        build(wider)
