import json

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from onnx_models import expected, noise_images, parse, save, segmenter

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers import base, network_format, onnx_session, onnx_teacher
from jaxdistill.teachers.base import OutputShapes
from jaxdistill.teachers.combined import Combined, from_config
from jaxdistill.teachers.network_format import PROBABILITY_MARGIN
from jaxdistill.teachers.onnx_session import OnnxSession
from jaxdistill.teachers.onnx_teacher import Onnx
from jaxdistill.types import TeacherOutputs

SIZE = (32, 64)
IMAGES = noise_images(3, *SIZE)


def configured(teacher=None, detector=None, features=()):
    tree = {
        "run": "run",
        "data": {"root": "data", "image_size": list(SIZE)},
        "features": [{"tensor": tensor} for tensor in features],
        "losses": {} if teacher else {"kl": 0, "mse": 0},
    }
    for role, section in (("teacher", teacher), ("detector", detector)):
        if section:
            tree[role] = {**section, "onnx": str(section["onnx"])}
    return config.check(tree, "test")


def reference(tensors, normalization, size=SIZE):
    """NHWC tensors of the segmenter, by numpy and ONNX's own reference."""
    images = np.asarray(image_ops.resize(jnp.asarray(IMAGES), size))
    mean, std = (np.asarray(values, np.float32) for values in image_ops.resolve(normalization))
    nchw = ((images - mean) / std).transpose(0, 3, 1, 2)
    return [map_.transpose(0, 2, 3, 1) for map_ in expected(segmenter(), nchw, tensors)]


def close(value, wanted):
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def path(tmp_path):
    return save(segmenter(), tmp_path)


@pytest.fixture
def opened(monkeypatch):
    """Returns the sessions that are opened, and how often each has run."""
    runs = {}

    class Counted(OnnxSession):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            runs[self] = 0

        def __call__(self, images):
            runs[self] += 1
            return super().__call__(images)

    monkeypatch.setattr(onnx_teacher, "OnnxSession", Counted)
    return runs


def test_each_network_gets_its_own_normalisation(path):
    teacher = from_config(
        configured(
            teacher={"onnx": path, "tensor": "score", "normalization": "half"},
            detector={"onnx": path},
            features=["deep", "inner", "deep"],
        )
    )
    outputs = teacher(jnp.asarray(IMAGES))
    [score] = reference(["score"], "half")
    close(outputs.logits, image_ops.resize(jnp.asarray(score), SIZE))
    assert outputs.logits.shape == (3, *SIZE, 1)
    deep, inner = reference(["deep", "inner"], "unit")
    for value, wanted in zip(outputs.features, [deep, inner, deep], strict=True):
        close(value, wanted)
    assert base.feature_shapes(teacher, SIZE) == ((8, 16, 6), (16, 32, 4), (8, 16, 6))


def test_images_are_resized_for_a_network_of_another_size(path):
    teacher = from_config(
        configured(
            teacher={"onnx": path, "tensor": "score", "normalization": "unit", "size": [16, 48]},
            detector={"onnx": path, "size": [64, 64]},
            features=["inner"],
        )
    )
    outputs = teacher(jnp.asarray(IMAGES))
    [score] = reference(["score"], "unit", (16, 48))
    close(outputs.logits, image_ops.resize(jnp.asarray(score), SIZE))
    [inner] = reference(["inner"], "unit", (64, 64))
    close(outputs.features[0], inner)
    assert base.feature_shapes(teacher, SIZE) == ((32, 32, 4),)


def test_the_first_output_is_the_teachers_mask_unless_named(tmp_path):
    model = segmenter()
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "score"
    path = save(model, tmp_path)
    section = {"onnx": path, "normalization": "unit"}
    images = jnp.asarray(IMAGES)
    mask, score = (
        from_config(configured(teacher=chosen))(images).logits
        for chosen in (section, {**section, "tensor": "score"})
    )
    assert 0 <= mask.min() <= mask.max() <= 1 < score.max()


def test_probabilities_become_logits_after_resizing(path):
    section = {"onnx": path, "tensor": "mask", "normalization": "unit", "output": "probabilities"}
    logits = from_config(configured(teacher=section))(jnp.asarray(IMAGES)).logits
    [mask] = reference(["mask"], "unit")
    resized = np.asarray(image_ops.resize(jnp.asarray(mask), SIZE))
    back = jax.nn.sigmoid(logits)
    np.testing.assert_allclose(
        back, np.clip(resized, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN), atol=1e-6
    )


def test_certain_probabilities_have_finite_logits(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 1, H, W] mask)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] axis = {1}>
        { mask = Slice (image, zero, one, axis) }""")
    section = {"onnx": save(model, tmp_path), "normalization": "unit", "output": "probabilities"}
    teacher = from_config(configured(teacher=section))
    images = jnp.asarray(IMAGES).at[:, :16].set(0).at[:, 16:].set(1)
    logits = teacher(images).logits
    bound = np.log((1 - PROBABILITY_MARGIN) / PROBABILITY_MARGIN)
    np.testing.assert_allclose(logits[:, :16], -bound, rtol=1e-3)
    np.testing.assert_allclose(logits[:, 16:], bound, rtol=1e-3)


def test_one_file_fed_alike_is_opened_and_run_once(path, opened):
    teacher = from_config(
        configured(
            teacher={"onnx": path, "tensor": "score", "normalization": "imagenet"},
            detector={"onnx": path, "normalization": "imagenet"},
            features=["inner", "score"],
        )
    )
    outputs = teacher(jnp.asarray(IMAGES))
    assert list(opened.values()) == [1]
    score, inner = reference(["score", "inner"], "imagenet")
    close(outputs.logits, image_ops.resize(jnp.asarray(score), SIZE))
    close(outputs.features[0], inner)
    close(outputs.features[1], score)


@pytest.mark.parametrize("other", [{"normalization": "unit"}, {"size": [64, 64]}])
def test_one_file_fed_differently_is_two_networks(path, opened, other):
    from_config(
        configured(
            teacher={"onnx": path, "normalization": "half"},
            detector={"onnx": path, "normalization": "half", **other},
            features=["inner"],
        )
    )
    assert len(opened) == 2


def test_without_networks_there_is_no_teacher():
    assert from_config(configured()) is None


def test_features_alone_need_no_teacher(path):
    teacher = from_config(configured(detector={"onnx": path}, features=["inner"]))
    logits, [features], _ = teacher(jnp.asarray(IMAGES))
    assert logits is None
    assert features.shape == (3, *base.feature_shapes(teacher, SIZE)[0])
    assert list(base.file_fingerprints(teacher)) == ["detector"]


def test_without_a_mask_or_features_a_teacher_is_refused(path):
    with pytest.raises(ConfigError) as caught:
        Onnx(path, output=None)
    assert caught.value.code == "teacher-without-outputs"
    with pytest.raises(ConfigError) as caught:
        Combined(Onnx(path), Onnx(path))
    assert caught.value.code == "teacher-without-outputs"


def test_the_file_is_opened_when_it_is_needed(path, opened):
    teacher = Onnx(str(path), normalization="unit", features=["inner"])
    assert not opened
    assert teacher.output_shapes(SIZE) == OutputShapes((*SIZE, 1), ((16, 32, 4),))
    fewer = teacher.restrict(logits=False)
    outputs = fewer(jnp.asarray(IMAGES))
    assert list(opened.values()) == [1]
    [inner] = reference(["inner"], "unit")
    close(outputs.features[0], inner)
    assert outputs.logits is None
    assert list(fewer.provenance) == ["features"]
    assert teacher.restrict(logits=False, features=False) is None


def test_a_free_input_takes_the_size_of_the_images(path):
    teacher = Onnx(path, normalization="unit")
    for size in ((32, 64), (64, 32)):
        assert teacher(jnp.ones((1, *size, 3))).logits.shape == (1, *size, 1)


@pytest.mark.parametrize("other", [{}, {"normalization": "unit"}])
def test_combined_networks_can_be_restricted(path, opened, other):
    detector = Onnx(path, output=None, features=["inner"], **other)
    combined = Combined(Onnx(path), detector)
    whole = combined(jnp.asarray(IMAGES))
    mask = combined.restrict(features=False)(jnp.asarray(IMAGES))
    features = combined.restrict(logits=False)(jnp.asarray(IMAGES))
    assert mask.features == ()
    assert features.logits is None
    np.testing.assert_array_equal(mask.logits, whole.logits)
    np.testing.assert_array_equal(features.features[0], whole.features[0])
    assert combined.restrict(logits=False, features=False) is None
    assert len(opened) == (2 if other else 1)


def test_any_teacher_can_be_combined(path):
    def mask(images):
        return TeacherOutputs(images[..., :1])

    detector = Onnx(path, output=None, features=["inner"])
    combined = Combined(mask, detector)
    assert combined.output_shapes(SIZE) == OutputShapes((*SIZE, 1), ((16, 32, 4),))
    outputs = combined(jnp.asarray(IMAGES))
    np.testing.assert_array_equal(outputs.logits, IMAGES[..., :1])
    assert outputs.features[0].shape == (3, 16, 32, 4)
    assert combined.provenance is None


def test_the_provenance_is_plain_and_tells_teachers_apart(path):
    def provenance(**options):
        return json.dumps(Onnx(path, **options).provenance)

    assert json.loads(provenance())["logits"]["file"] == Onnx(path).graph.fingerprint
    options = [{}, {"tensor": "score"}, {"output": "probabilities"}, {"normalization": "unit"}]
    options += [{"size": (64, 64)}, {"features": ["inner"]}, {"features": ["deep"]}]
    assert len({provenance(**each) for each in options}) == len(options)


def test_features_that_weigh_nothing_are_not_computed(path, opened):
    settings = configured(teacher={"onnx": path}, detector={"onnx": path}, features=["inner"])
    losses = settings.losses.model_copy(update={"feature": 0.0})
    teacher = from_config(settings.model_copy(update={"losses": losses}))
    assert base.feature_shapes(teacher, SIZE) == ()
    assert list(teacher.provenance) == ["logits"]
    assert teacher(jnp.asarray(IMAGES)).features == ()


def test_every_network_is_described(path):
    teacher = from_config(
        configured(
            teacher={"onnx": path, "size": [16, 48]},
            detector={"onnx": path},
            features=["deep", "inner"],
        )
    )
    teacher, detector = base.describe_teacher(teacher)
    for part in ("teacher", str(path), "mask (8 x 24 x 1)", "16 x 48", "imagenet", "logits"):
        assert part in teacher
    assert teacher.rpartition(" on ")[2] in onnxruntime.get_available_providers()
    for part in ("detector", "deep (8 x 16 x 6)", "inner (16 x 32 x 4)", "32 x 64", "unit"):
        assert part in detector


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"teacher": {"tensor": "inner"}}, "teacher-channels"),
        ({"teacher": {"tensor": "masc"}}, "onnx-unknown-tensor"),
        ({"detector": {}, "features": ["iner"]}, "onnx-unknown-tensor"),
        ({"teacher": {"onnx": "none.onnx"}}, "onnx-unreadable"),
    ],
)
def test_mistakes_are_reported_in_one_line(path, sections, code):
    for role in ("teacher", "detector"):
        if role in sections:
            sections = {**sections, role: {"onnx": path, **sections[role]}}
    with pytest.raises(NetworkError) as caught:
        from_config(configured(**sections))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_a_real_teacher_that_is_its_own_detector(shared, opened):
    path = shared("models", "u2netp.onnx")
    teacher = from_config(
        configured(
            teacher={"onnx": path, "output": "probabilities"},
            detector={"onnx": path, "normalization": "imagenet"},
            features=["1429"],
        )
    )
    assert len(opened) == 1
    assert base.feature_shapes(teacher, SIZE) == ((40, 40, 64),)
    logits, [features], _ = teacher(jnp.asarray(IMAGES[:1]))
    assert logits.shape == (1, *SIZE, 1)
    assert features.shape == (1, 40, 40, 64)

    [network] = opened
    prepared = image_ops.normalize(
        image_ops.resize(jnp.asarray(IMAGES[:1]), (320, 320)), image_ops.resolve("imagenet")
    )
    mask, _ = network(prepared)
    mask = np.asarray(image_ops.resize(mask, SIZE))
    np.testing.assert_allclose(
        jax.nn.sigmoid(logits), mask, atol=PROBABILITY_MARGIN, err_msg="back within the clamp"
    )


def test_the_provenance_has_all_that_changes_the_values(path, monkeypatch):
    """Each of these would give other values from the same file, so that caches are kept apart."""

    def provenance():
        return json.dumps(Onnx(path, output="probabilities").provenance)

    found = [provenance()]
    changes = {
        (onnxruntime, "__version__"): "0.0.0",
        (network_format, "PROBABILITY_MARGIN"): 1e-5,
        (onnx_teacher, "CONVERSION_VERSION"): 99,
        (onnx_session.OnnxSession, "precision"): "tf32",
    }
    for (place, name), value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            found.append(provenance())
    opened = onnx_session.OnnxSession.__init__

    def on_another_provider(session, *args, **options):
        opened(session, *args, **options)
        session.provider = "OtherExecutionProvider"

    monkeypatch.setattr(onnx_session.OnnxSession, "__init__", on_another_provider)
    found.append(provenance())
    assert len(set(found)) == len(found)
