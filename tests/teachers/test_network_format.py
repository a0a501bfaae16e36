"""Networks of every input layout and mask output give the logits of one plain network."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import noise_images, parse, save
from onnx_variants import half_resolution, variants
from scipy.special import logsumexp

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers import Combined, plausibility
from jaxdistill.teachers.network_format import (
    PROBABILITY_MARGIN,
    MaskOutput,
    output_layout,
    to_logits,
)
from jaxdistill.teachers.onnx_teacher import Onnx

SIZE = (12, 16)
BYTES = np.rint(noise_images(3, *SIZE) * 255).astype(np.uint8)
IMAGES = jnp.asarray(BYTES.astype(np.float32) / 255)
VARIANTS = variants()
BOUND = float(np.log((1 - PROBABILITY_MARGIN) / PROBABILITY_MARGIN))


def opened(variant, folder, **more):
    options = {"normalization": "unit", **variant.options, **more}
    return Onnx(save(variant.model, folder), **options)


@functools.cache
def plain_logits(folder):
    return np.asarray(opened(VARIANTS["plain"], folder)(IMAGES).logits)


@pytest.fixture
def plain(tmp_path_factory):
    return plain_logits(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_of_a_network_has_the_same_logits(tmp_path, plain, name):
    variant = VARIANTS[name]
    teacher = opened(variant, tmp_path)
    logits = teacher(IMAGES).logits
    assert plain.std() > 1
    assert np.abs(plain).max() < BOUND
    assert teacher.output_shapes(SIZE).logits == (*SIZE, 1)
    if variant.hard:
        np.testing.assert_allclose(np.abs(logits), BOUND, rtol=1e-3)
        if np.isfinite(variant.tolerance):
            np.testing.assert_array_equal(logits > 0, plain > 0)
    else:
        np.testing.assert_allclose(logits, plain, atol=variant.tolerance, rtol=1e-3)
    [line] = teacher.describe()
    for part in variant.described:
        assert part in line
    stored = teacher.mask.is_person(teacher.stored_mask(BYTES))
    assert (stored == (np.asarray(logits) > 0)).mean() > (0.98 if name == "float16" else 0.999)
    json.dumps(teacher.provenance)


def test_the_class_of_a_pixel_is_looked_up(tmp_path):
    """Of twenty, the largest is one of the first people, or the first of the others."""
    variant = VARIANTS["argmax of twenty"]
    logits = opened(variant, tmp_path)(IMAGES).logits
    np.testing.assert_allclose(logits, BOUND, rtol=1e-3)
    nobody = {"output": "class_indices", "channel": 19}
    np.testing.assert_allclose(
        opened(variant._replace(options=nobody), tmp_path)(IMAGES).logits, -BOUND, rtol=1e-3
    )


def test_a_mask_of_half_the_size_is_resized(tmp_path, plain):
    logits = opened(half_resolution(), tmp_path)(IMAGES).logits
    pooled = plain.reshape(3, 6, 2, 8, 2, 1).mean((2, 4))
    np.testing.assert_allclose(logits, image_ops.resize(jnp.asarray(pooled), SIZE), atol=1e-4)


def test_a_mask_and_features_of_one_network_are_computed_in_one_run(tmp_path, plain):
    variant = VARIANTS["NHWC in and out"]
    mask = opened(variant, tmp_path)
    features = Onnx(mask.graph, output=None, normalization="unit", features=["inner"])
    outputs = Combined(mask, features)(IMAGES)
    np.testing.assert_allclose(outputs.logits, plain, atol=1e-4)
    assert outputs.features[0].shape == (3, *SIZE, 4)


def test_the_provenance_of_a_plain_network_is_that_of_earlier_versions(tmp_path):
    """Its digest names the folders of target caches: another key would compute all again."""
    common = {"conversion", "file", "normalization", "onnxruntime", "precision", "provider", "size"}
    provenance = opened(VARIANTS["plain"], tmp_path, features=["inner"]).provenance
    assert provenance["logits"].keys() == {*common, "tensor", "output", "margin"}
    assert provenance["logits"]["normalization"].keys() == {"mean", "std"}
    assert provenance["features"].keys() == {*common, "tensors"}


def test_the_provenance_tells_every_setting_apart(tmp_path):
    text = "net (float[N, a, b, c] image) => (float[N, d, e, f] mask) { mask = Abs (image) }"
    path = save(parse(text), tmp_path)
    settings = [
        {"channel": 0},
        {"channel": 1},
        {"channel": [0, 1]},
        {"channel": 0, "channel_order": "bgr"},
        {"channel": 0, "layout": "nhwc"},
        {"channel": 0, "output_layout": "nhwc"},
        {"channel": 0, "output": "softmax_logits"},
        {"channel": 0, "output": "class_indices"},
        {"channel": 0, "normalization": "bytes"},
    ]
    found = {json.dumps(Onnx(path, **each).provenance) for each in settings}
    assert len(found) == len(settings)


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("uint8", {"normalization": "imagenet"}, "input-normalization"),
        ("plain", {"layout": "nhwc"}, "onnx-layout"),
        ("NHWC in", {"layout": "nchw"}, "onnx-layout"),
        ("plain", {"channel": 1}, "teacher-channels"),
        ("plain", {"output": "softmax_logits"}, "teacher-channels"),
        ("plain", {"output": "softmax_logits", "channel": 0}, "teacher-channels"),
        ("plain", {"output": "class_indices"}, "teacher-channels"),
        ("softmax of two", {"channel": None}, "teacher-channels"),
        ("softmax of two", {"channel": 2}, "teacher-channels"),
        ("softmax of two", {"channel": [1, 1]}, "teacher-channels"),
        ("softmax of two", {"channel": -1}, "teacher-channels"),
        ("softmax of two", {"output": "class_indices"}, "teacher-channels"),
        ("softmax logits of two", {"channel": [0, 1]}, "teacher-channels"),
        ("argmax", {"output": "logits"}, "onnx-tensor-type"),
        ("argmax", {"channel": None}, "teacher-channels"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(tmp_path, name, options, code):
    with pytest.raises(NetworkError) as caught:
        opened(VARIANTS[name], tmp_path, **options).output_shapes(SIZE)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_softmax_logits_that_are_probabilities_are_doubted(tmp_path):
    for output, count in (("softmax_logits", 1), ("probabilities", 0)):
        teacher = opened(VARIANTS["softmax of two"], tmp_path, output=output)
        assert len(list(plausibility.doubts(teacher, BYTES))) == count


def logits_of(maps, kind, channels):
    mask = MaskOutput("mask", kind, channels)
    return np.asarray(to_logits(jnp.asarray(maps, jnp.float32), mask, maps.shape[1:3]))[..., 0]


@pytest.mark.parametrize("scale", [1, 10, 80])
def test_classes_are_combined_as_in_double_precision(scale):
    maps = scale * np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    chosen, rest = [1, 4], [0, 2, 3, 5]
    wanted = logsumexp(maps[..., chosen], -1) - logsumexp(maps[..., rest], -1)
    np.testing.assert_allclose(logits_of(maps, "softmax_logits", (1, 4)), wanted, rtol=1e-4)
    softmax = np.exp(maps - logsumexp(maps, -1, keepdims=True))
    clipped = np.clip(softmax[..., chosen].sum(-1), PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    added = logits_of(softmax, "probabilities", (1, 4))
    np.testing.assert_allclose(added, np.log(clipped / (1 - clipped)), rtol=1e-3, atol=1e-4)
    # log P(any) - log P(none), with P(none) the product of the probabilities of the opposite
    none = -np.logaddexp(0, maps[..., chosen]).sum(-1)
    wanted = np.log(-np.expm1(none)) - none
    # No smaller than the logit of the smallest float32, -87.3.
    found, wanted = (np.maximum(each, -87) for each in (logits_of(maps, "logits", (1, 4)), wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "input_size", "preferred", "layout"),
    [
        ((1, 1, 320, 320), (320, 320), "nhwc", "nchw"),
        ((1, 320, 320, 1), (320, 320), "nchw", "nhwc"),
        ((1, 320, 320), (320, 320), "nchw", "nhw"),
        ((1, 20, 320, 320), (320, 320), "nhwc", "nchw"),
        ((1, 160, 160, 20), (320, 320), "nchw", "nhwc"),
        ((1, 21, 17, 33), (33, 65), "nhwc", "nchw"),
        ((1, 17, 33, 21), (33, 65), "nchw", "nhwc"),
        ((1, 16, 16, 16), (32, 32), "nchw", "nchw"),
        ((1, 16, 16, 16), (32, 32), "nhwc", "nhwc"),
        ((1, 2, 64, 48), (256, 192), "nchw", "nchw"),
        ((1, 1, 1, 1), (8, 8), "nchw", "nchw"),
    ],
)
def test_the_axes_of_a_mask_are_found_from_its_shape(shape, input_size, preferred, layout):
    assert output_layout(shape, input_size, preferred) == layout


def test_mean_and_std_of_bytes_are_divided_by_their_scale():
    given = config.MeanStd(mean=(51, 102, 153), std=(25.5, 51, 255), scale=255)
    mean, std = image_ops.resolve(given)
    np.testing.assert_allclose(mean, (0.2, 0.4, 0.6))
    np.testing.assert_allclose(std, (0.1, 0.2, 1.0))
    assert image_ops.resolve("bytes") == image_ops.resolve(
        config.MeanStd(mean=(0, 0, 0), std=(1, 1, 1), scale=255)
    )
