"""Students: sizes, shapes, weights files, projectors."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refused import refused
from small_student import HALF, SMALL, randomised, small_student

from jaxdistill import config, models
from jaxdistill.models import Pair, Student, build, weights
from jaxdistill.models.parameters import flat_variables, param_group
from jaxdistill.models.registry import build_encoder
from jaxdistill.runtime.errors import ConfigError, WeightsError


def parameters(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_the_default_student_has_the_original_s_size() -> None:
    student = build(config.Student())
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
        ("mobilenetv3_small_050", (16, 8, 16, 24, 288)),
        ("mobilenetv3_large_100", (16, 24, 40, 112, 960)),
        ("mobilenetv4_conv_small", (32, 32, 64, 96, 960)),
    ],
)
def test_encoders_describe_the_maps_that_they_compute(name: str, channels: tuple) -> None:
    encoder = build_encoder(name, rngs=nnx.Rngs(0))
    assert tuple(feature.channels for feature in encoder.feature_info) == channels
    assert [feature.stride for feature in encoder.feature_info] == [2, 4, 8, 16, 32]
    maps = nnx.eval_shape(lambda e, x: e(x, train=False), encoder, jnp.zeros((1, 64, 96, 3)))
    assert [m.shape for m in maps] == [
        (1, *feature.size((64, 96)), feature.channels) for feature in encoder.feature_info
    ]


def test_every_tap_is_as_it_is_described() -> None:
    student = small_student()
    taps = nnx.eval_shape(lambda s, x: s.taps(x, train=False), student, jnp.zeros((1, 64, 96, 3)))
    assert taps.keys() == {feature.name for feature in student.feature_info}
    for feature in student.feature_info:
        assert taps[feature.name].shape == (1, *feature.size((64, 96)), feature.channels)
    assert models.feature_info(SMALL) == student.feature_info


@pytest.mark.parametrize(
    ("settings", "code", "names"),
    [
        ({"encoder": "resnet50"}, "unknown-encoder", "tf_efficientnet_lite0"),
        ({"decoder": "unett"}, "unknown-decoder", "did you mean 'unet'"),
        ({"decoder_channels": (8,) * 6}, "decoder-channels", "at most 5"),
    ],
)
def test_an_unknown_architecture_is_refused(settings: dict, code: str, names: str) -> None:
    with refused(ConfigError, code, names):
        build(SMALL.model_copy(update=settings))


@pytest.mark.parametrize("size", [(64, 100), (0, 64), (-32, 64)])
def test_images_must_be_multiples_of_the_largest_stride(size: tuple[int, int]) -> None:
    models.check_image_size(small_student(), (64, 96))
    with refused(ConfigError, "image-size", "multiples of 32"):
        models.check_image_size(small_student(), size)


def test_construction_compiles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        small_student([Pair("encoder.3", 8, 4, standardized=True, balanced=True)])
    assert [record.message for record in caplog.records if "Compiling" in record.message] == []


def test_projectors_can_be_added_and_removed() -> None:
    pairs = [Pair("encoder.3", 8, 6, balanced=True), Pair("decoder.1", 5, None, masked_share=0.5)]
    student = randomised(small_student(seed=4))
    extended = models.with_projectors(student, pairs)
    own, first = flat_variables(student), flat_variables(small_student(pairs, seed=4))
    variables = flat_variables(extended)
    assert variables.keys() == first.keys()
    for name, value in variables.items():
        expected = first[name] if param_group(name) == "projectors" else own[name]
        np.testing.assert_array_equal(value, expected)
    assert extended.pairs == tuple(pairs)
    assert flat_variables(models.without_projectors(extended)).keys() == own.keys()


def arrays_of(student: Student, *groups: str) -> dict[str, np.ndarray]:
    variables = flat_variables(student).items()
    return {name: np.asarray(v) for name, v in variables if param_group(name) in groups}


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    path = tmp_path / "lite0.safetensors"
    metadata = {"encoder": SMALL.encoder, "normalization": weights.format_normalization(HALF)}
    weights.save(path, arrays_of(small_student(seed=7), "encoder"), metadata)
    return path


def test_encoder_weights_are_read_with_their_normalization(encoder_file: Path) -> None:
    built = build(SMALL.model_copy(update={"encoder_weights": encoder_file}))
    assert built.normalization == HALF
    own, read = arrays_of(built, "encoder"), weights.load(encoder_file)[0]
    assert own.keys() == read.keys()
    assert all(np.array_equal(own[name], read[name]) for name in own)


def test_weights_that_do_not_fit_are_refused(encoder_file: Path) -> None:
    settings = SMALL.model_copy(update={"encoder_weights": encoder_file})
    with refused(WeightsError, "weights-encoder", "tf_efficientnet_lite0"):
        build(config.Student(encoder="tf_efficientnet_b0", encoder_weights=encoder_file))
    content = encoder_file.read_bytes()
    encoder_file.write_bytes(content[:-1000])
    with refused(WeightsError, "weights-damaged", encoder_file.name):
        build(settings)
    encoder_file.write_bytes(content)
    arrays, metadata = weights.load(encoder_file)
    arrays.pop("encoder.conv_stem.kernel")
    weights.save(encoder_file, arrays, metadata)
    with refused(WeightsError, "weights-mismatch", "1 missing (encoder.conv_stem.kernel)"):
        build(settings)
    weights.save(encoder_file, arrays, {**metadata, "normalization": "[1"})
    with refused(WeightsError, "weights-metadata", encoder_file.name):
        build(settings)
    encoder_file.unlink()
    with refused(WeightsError, "weights-missing", encoder_file.name):
        build(settings)


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    path = tmp_path / "student.safetensors"
    source = small_student([Pair("encoder.3", 8, None)], seed=7)
    arrays = arrays_of(source, "encoder", "decoder", "head", "projectors")
    weights.save(path, arrays, {"encoder": SMALL.encoder})
    return path


def test_a_student_starts_from_a_whole_student_s_weights(student_file: Path) -> None:
    settings = SMALL.model_copy(update={"weights": student_file})
    built = build(settings, [Pair("encoder.3", 5, None)])
    read, _ = weights.load(student_file)
    for name, value in arrays_of(built, "encoder", "decoder", "head").items():
        np.testing.assert_array_equal(value, read[name])
    with refused(WeightsError, "weights-mismatch", "of another shape (decoder.blocks.4"):
        build(settings.model_copy(update={"decoder_channels": (16, 8, 8, 4, 6)}))


def test_create_tells_the_two_kinds_of_files_apart(encoder_file: Path, student_file: Path) -> None:
    channels = SMALL.decoder_channels
    for file, groups in (
        (encoder_file, ("encoder",)),
        (student_file, ("encoder", "decoder", "head")),
    ):
        student = models.create(encoder=SMALL.encoder, weights=file, decoder_channels=channels)
        read, _ = weights.load(file)
        assert all(
            np.array_equal(value, read[name]) for name, value in arrays_of(student, *groups).items()
        )
    assert models.create(encoder=SMALL.encoder, weights=encoder_file).normalization == HALF
    with refused(ConfigError, "invalid-argument", "normalization"):
        models.create(encoder=SMALL.encoder, normalization="imagenett")
