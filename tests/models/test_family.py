"""Smaller students: encoders that end early, light decoders, logits at lower resolution."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import toy_student
from flax import nnx
from refused import refused
from small_student import randomised

from jaxdistill import config, models
from jaxdistill.data import image_ops
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.models import Student, weights
from jaxdistill.models.parameters import flat_variables, partition
from jaxdistill.models.registry import build_encoder
from jaxdistill.runtime.errors import ConfigError

UNIT = image_ops.resolve("unit")


@pytest.fixture(autouse=True)
def registered() -> None:
    toy_student.register()


def student(encoder: str, decoder: str, **settings: object) -> Student:
    chosen = config.Student.model_validate(
        {"encoder": encoder, "decoder": decoder, "frozen": (), **settings}
    )
    return randomised(Student(chosen, UNIT))


@pytest.mark.parametrize(
    ("decoder", "settings", "stride"),
    [
        ("light-unet", {}, 2),
        ("light-unet", {"decoder_channels": (12,)}, 4),
        ("lr-aspp", {}, 2),
        ("lr-aspp", {"decoder_channels": (12,), "upsampling": "learned"}, 4),
        ("mediapipe-selfie", {"decoder_channels": (12,)}, 4),
        ("unet", {"decoder_channels": (12, 8)}, 1),
        ("unet", {"decoder_channels": (12,)}, 2),
    ],
)
def test_a_decoder_may_end_early_and_its_graph_computes_the_same(
    decoder: str, settings: dict, stride: int
) -> None:
    model = student("toy-encoder", decoder, **settings)
    assert model.decoder.feature_info[-1].stride == stride
    images = np.random.default_rng(0).random((2, 16, 24, 3), np.float32)
    taps = nnx.eval_shape(lambda m, x: m.taps(x, train=True), model, images)
    for feature in model.feature_info:
        assert taps[feature.name].shape == (2, *feature.size((16, 24)), feature.channels)
    expected = np.asarray(nnx.jit(lambda m, x: m(x, train=False).logits)(model, images))
    assert expected.shape == (2, 16, 24, 1)
    assert expected.std() > 0.02
    graph = student_graph(model, Form("unit")).SerializeToString()
    nchw = images.transpose(0, 3, 1, 2)
    [found] = onnxruntime.InferenceSession(graph).run(None, {"image": nchw})
    assert np.abs(found.transpose(0, 2, 3, 1) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("encoder", "depth", "channels"),
    [
        ("tf_efficientnet_lite0", 4, (32, 24, 40, 112)),
        ("mobilenetv3_small_100", 4, (16, 16, 24, 48)),
        ("mobilenetv4_conv_small", 3, (32, 32, 64)),
        ("mediapipe-selfie", 3, (16, 16, 24)),
        ("mobilenetv3_small_050", 5, (16, 8, 16, 24, 288)),
    ],
)
def test_an_encoder_that_ends_early_has_the_layers_that_it_needs(
    encoder: str, depth: int, channels: tuple[int, ...]
) -> None:
    whole, cut = (build_encoder(encoder, d, rngs=nnx.Rngs(0)) for d in (None, depth))
    assert tuple(feature.channels for feature in cut.feature_info) == channels
    assert whole.feature_info[:depth] == cut.feature_info
    assert cut.feature_info[-1].stages == len(cut.stages)
    own, all_of_them = flat_variables(cut), flat_variables(whole)
    assert own.keys() <= all_of_them.keys()
    assert len(own) < len(all_of_them)
    images = jnp.zeros((1, 64, 64, 3))
    maps = nnx.eval_shape(lambda e, x: e(x, train=False), cut, images)
    assert [m.shape for m in maps] == [(1, *f.size((64, 64)), f.channels) for f in cut.feature_info]
    for stage in cut.stages:  # every stage can join the training
        frozen = [path for other in cut.stages if other != stage for path in other]
        assert partition(cut, frozen).params


def test_an_encoder_that_ends_early_takes_the_weights_of_the_whole(tmp_path: Path) -> None:
    name = "mobilenetv3_small_050"
    arrays = {
        f"encoder.{path}": np.asarray(value)
        for path, value in flat_variables(build_encoder(name, rngs=nnx.Rngs(7))).items()
    }
    file = tmp_path / "encoder.safetensors"
    weights.save(file, arrays, {"encoder": name})
    settings = config.Student(
        encoder=name, encoder_depth=4, encoder_weights=file, decoder="lr-aspp"
    )
    own = flat_variables(models.build(settings))
    read = [path for path in own if path.startswith("encoder.")]
    assert 0 < len(read) < len(arrays)
    for path in read:
        np.testing.assert_array_equal(own[path], arrays[path])


def test_create_takes_what_a_configuration_takes() -> None:
    model = models.create(
        "lr-aspp", encoder="mediapipe-selfie", encoder_depth=3, upsampling="learned", frozen=()
    )
    assert [f.stride for f in model.feature_info] == [2, 4, 8, 8, 4]
    assert model.head.kernel.shape == (4, 4, 32, 1)


def test_an_encoder_cannot_end_where_it_has_no_map() -> None:
    with refused(ConfigError, "encoder-depth", "1 to 4"):
        build_encoder("mediapipe-selfie", 5, rngs=nnx.Rngs(0))
    with refused(ConfigError, "encoder-depth", "1 to 2"):
        build_encoder("toy-encoder", 1, rngs=nnx.Rngs(0))
