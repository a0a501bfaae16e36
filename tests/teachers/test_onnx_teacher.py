import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from onnx_models import expected, parse, pictures, save, segmenter

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers import onnx_teacher
from jaxdistill.teachers.onnx_session import OnnxNetwork
from jaxdistill.teachers.onnx_teacher import PROBABILITY_MARGIN, FrozenNetworks
from jaxdistill.types import TeacherOutputs

SIZE = (32, 64)
IMAGES = pictures(3, *SIZE)


def settings(teacher=None, detector=None, features=()):
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


def close(given, wanted):
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def path(tmp_path):
    return save(segmenter(), tmp_path)


@pytest.fixture
def opened(monkeypatch):
    """The networks that get opened, and how often each has run."""
    runs = {}

    class Counted(OnnxNetwork):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            runs[self] = 0

        def __call__(self, images):
            runs[self] += 1
            return super().__call__(images)

    monkeypatch.setattr(onnx_teacher, "OnnxNetwork", Counted)
    return runs


def test_each_network_gets_its_own_normalisation(path):
    networks = FrozenNetworks(
        settings(
            teacher={"onnx": path, "tensor": "score", "normalization": "half"},
            detector={"onnx": path},
            features=["deep", "inner", "deep"],
        )
    )
    targets = networks.targets(jnp.asarray(IMAGES))
    [score] = reference(["score"], "half")
    close(targets.logits, image_ops.resize(jnp.asarray(score), SIZE))
    assert targets.logits.shape == (3, *SIZE, 1)
    deep, inner = reference(["deep", "inner"], "unit")
    for given, wanted in zip(targets.features, [deep, inner, deep], strict=True):
        close(given, wanted)
    assert networks.feature_shapes == ((8, 16, 6), (16, 32, 4), (8, 16, 6))


def test_pictures_are_resized_for_a_network_of_another_size(path):
    networks = FrozenNetworks(
        settings(
            teacher={"onnx": path, "tensor": "score", "normalization": "unit", "size": [16, 48]},
            detector={"onnx": path, "size": [64, 64]},
            features=["inner"],
        )
    )
    targets = networks.targets(jnp.asarray(IMAGES))
    [score] = reference(["score"], "unit", (16, 48))
    close(targets.logits, image_ops.resize(jnp.asarray(score), SIZE))
    [inner] = reference(["inner"], "unit", (64, 64))
    close(targets.features[0], inner)
    assert networks.feature_shapes == ((32, 32, 4),)


def test_the_first_output_is_the_teachers_mask_unless_named(tmp_path):
    model = segmenter()
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "score"
    path = save(model, tmp_path)
    section = {"onnx": path, "normalization": "unit"}
    images = jnp.asarray(IMAGES)
    mask, score = (
        FrozenNetworks(settings(teacher=chosen)).targets(images).logits
        for chosen in (section, {**section, "tensor": "score"})
    )
    assert 0 <= mask.min() <= mask.max() <= 1 < score.max()


def test_probabilities_become_logits_after_resizing(path):
    teacher = {"onnx": path, "tensor": "mask", "normalization": "unit", "output": "probabilities"}
    logits = FrozenNetworks(settings(teacher=teacher)).targets(jnp.asarray(IMAGES)).logits
    [mask] = reference(["mask"], "unit")
    resized = np.asarray(image_ops.resize(jnp.asarray(mask), SIZE))
    back = jax.nn.sigmoid(logits)
    np.testing.assert_allclose(
        back, np.clip(resized, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN), atol=1e-6
    )


def test_certain_probabilities_have_finite_logits(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] picture) => (float[N, 1, H, W] mask)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] axis = {1}>
        { mask = Slice (picture, zero, one, axis) }""")
    teacher = {"onnx": save(model, tmp_path), "normalization": "unit", "output": "probabilities"}
    networks = FrozenNetworks(settings(teacher=teacher))
    images = jnp.asarray(IMAGES).at[:, :16].set(0).at[:, 16:].set(1)
    logits = networks.targets(images).logits
    bound = np.log((1 - PROBABILITY_MARGIN) / PROBABILITY_MARGIN)
    np.testing.assert_allclose(logits[:, :16], -bound, rtol=1e-3)
    np.testing.assert_allclose(logits[:, 16:], bound, rtol=1e-3)


def test_one_file_fed_alike_is_opened_and_run_once(path, opened):
    networks = FrozenNetworks(
        settings(
            teacher={"onnx": path, "tensor": "score", "normalization": "imagenet"},
            detector={"onnx": path, "normalization": "imagenet"},
            features=["inner", "score"],
        )
    )
    targets = networks.targets(jnp.asarray(IMAGES))
    assert list(opened.values()) == [1]
    score, inner = reference(["score", "inner"], "imagenet")
    close(targets.logits, image_ops.resize(jnp.asarray(score), SIZE))
    close(targets.features[0], inner)
    close(targets.features[1], score)


@pytest.mark.parametrize("other", [{"normalization": "unit"}, {"size": [64, 64]}])
def test_one_file_fed_differently_is_two_networks(path, opened, other):
    FrozenNetworks(
        settings(
            teacher={"onnx": path, "normalization": "half"},
            detector={"onnx": path, "normalization": "half", **other},
            features=["inner"],
        )
    )
    assert len(opened) == 2


def test_without_networks_there_are_no_targets():
    networks = FrozenNetworks(settings())
    assert networks.targets(jnp.asarray(IMAGES)) == TeacherOutputs(None, ())
    assert networks.feature_shapes == ()
    assert networks.describe() == []
    assert networks.fingerprints == {}


def test_features_alone_need_no_teacher(path):
    networks = FrozenNetworks(settings(detector={"onnx": path}, features=["inner"]))
    logits, [features], _ = networks.targets(jnp.asarray(IMAGES))
    assert logits is None
    assert features.shape == (3, *networks.feature_shapes[0])
    assert list(networks.fingerprints) == ["detector"]


def test_features_that_weigh_nothing_are_not_computed(path, opened):
    given = settings(teacher={"onnx": path}, detector={"onnx": path}, features=["inner"])
    losses = given.losses.model_copy(update={"feature": 0.0})
    networks = FrozenNetworks(given.model_copy(update={"losses": losses}))
    assert networks.feature_shapes == ()
    assert networks.roles.keys() == {"teacher"}
    assert networks.targets(jnp.asarray(IMAGES)).features == ()


def test_every_network_is_described(path):
    networks = FrozenNetworks(
        settings(
            teacher={"onnx": path, "size": [16, 48]},
            detector={"onnx": path},
            features=["deep", "inner"],
        )
    )
    teacher, detector = networks.describe()
    for part in ("teacher", str(path), "mask (8 x 24 x 1)", "16 x 48", "imagenet", "logits"):
        assert part in teacher
    assert teacher.rpartition(" on ")[2] in onnxruntime.get_available_providers()
    for part in ("detector", "deep (8 x 16 x 6)", "inner (16 x 32 x 4)", "32 x 64", "unit"):
        assert part in detector


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"teacher": {"tensor": "inner"}}, "'inner' should be a mask of 1 channel, but has 4"),
        ({"teacher": {"tensor": "masc"}}, "nearest names are 'mask'"),
        ({"detector": {}, "features": ["iner"]}, "nearest names are 'inner'"),
        ({"teacher": {"onnx": "none.onnx"}}, "none.onnx: No such file"),
    ],
)
def test_mistakes_are_told_in_one_line(path, sections, complaint):
    for role in ("teacher", "detector"):
        if role in sections:
            sections = {**sections, role: {"onnx": path, **sections[role]}}
    with pytest.raises(UserError) as caught:
        FrozenNetworks(settings(**sections))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_real_teacher_that_is_its_own_detector(shared, opened):
    path = shared("models", "u2netp.onnx")
    networks = FrozenNetworks(
        settings(
            teacher={"onnx": path, "output": "probabilities"},
            detector={"onnx": path, "normalization": "imagenet"},
            features=["1429"],
        )
    )
    assert len(opened) == 1
    assert networks.feature_shapes == ((40, 40, 64),)
    logits, [features], _ = networks.targets(jnp.asarray(IMAGES[:1]))
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
