"""Several teachers as one: the mean of their probabilities, and a cache for each."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import noise_images, save, segmenter
from scipy.special import expit

from jaxdistill import config
from jaxdistill.data.augment import Augmentation
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers import Combined, Ensemble, Onnx, base, from_config, plausibility
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.training import preflight
from jaxdistill.training.input_pipeline import InputPipeline
from jaxdistill.training.provenance import differences
from jaxdistill.training.target_caching import content_keys_by_pixels
from jaxdistill.types import Batch, TeacherOutputs

SIZE = (32, 64)
IMAGES = jnp.asarray(noise_images(3, *SIZE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(segmenter(), tmp_path)


def networks(path: Path) -> list[Onnx]:
    """The same file with three kinds of input."""
    return [
        Onnx(path, tensor="score", normalization="unit"),
        Onnx(path, output="probabilities", normalization="half", size=(16, 48)),
        Onnx(path, tensor="score", normalization="imagenet", channel_order="bgr"),
    ]


def constant(value: float):
    return lambda images: TeacherOutputs(jnp.full((*images.shape[:3], 1), value))


def test_probabilities_are_averaged_by_weight(path: Path) -> None:
    members = networks(path)
    ensemble = Ensemble(members, [1, 2, 1])
    each = [expit(np.asarray(member(IMAGES).logits, np.float64)) for member in members]
    wanted = np.average(each, axis=0, weights=[1, 2, 1])
    np.testing.assert_allclose(expit(ensemble(IMAGES).logits), wanted, atol=1e-6)
    assert [member.input_size(SIZE) for member in members] == [SIZE, (16, 48), SIZE]
    assert ensemble.output_shapes(SIZE) == base.OutputShapes((*SIZE, 1))


@pytest.mark.parametrize(
    ("logits", "weights", "wanted"),
    [
        ([2.5], [7], 2.5),
        ([-60, -60], None, -60),
        ([60, -60], None, 0),
        ([60, -60], [3, 1], np.log(3)),
        ([-200, -100], None, -100 - np.log(2)),
    ],
)
def test_certain_teachers_need_no_clipping(logits, weights, wanted) -> None:
    ensemble = Ensemble([constant(value) for value in logits], weights)
    np.testing.assert_allclose(ensemble(IMAGES).logits, wanted, rtol=1e-5, atol=1e-5)
    assert ensemble.provenance is None


def test_teachers_without_a_mask_and_odd_weights_are_refused(path: Path) -> None:
    features = Onnx(path, output=None, features=["inner"])
    for members in ([], [Onnx(path), features]):
        with pytest.raises(ConfigError) as caught:
            Ensemble(members)
        assert caught.value.code == "teacher-without-outputs"
    for weights in ([1], [1, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(ConfigError) as caught:
            Ensemble([Onnx(path), Onnx(path)], weights)
        assert caught.value.code == "ensemble-weights"


def folders(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir() if entry.is_dir()}


def test_each_teacher_has_a_cache_of_its_own(path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    members = networks(path)
    two = Ensemble(members[:2]).cached(cache)
    first = two(IMAGES)
    assert two.counts == {"hits": 0, "computed": 6, "damaged": 0}
    np.testing.assert_allclose(first.logits, Ensemble(members[:2])(IMAGES).logits, atol=1e-2)
    assert first.logits.dtype == jnp.float16
    three = Ensemble(members, [1, 1, 5]).cached(cache)
    three(IMAGES)
    assert three.counts == {"hits": 6, "computed": 3, "damaged": 0}
    assert len(folders(cache)) == 3
    alone = members[2].cached(cache)
    alone(IMAGES)
    assert alone.counts == {"hits": 3, "computed": 0, "damaged": 0}
    assert three.entry_bytes == 3 * alone.entry_bytes


def test_features_and_several_masks_are_cached_beside_each_other(
    path: Path, tmp_path: Path
) -> None:
    detector = Onnx(path, output=None, features=["inner", "deep"])
    combined = Combined(Ensemble(networks(path)), detector)
    plain = combined(IMAGES)
    for _ in range(2):
        cached = CachedTeacher(combined, tmp_path / "cache")
        outputs = cached(IMAGES)
        np.testing.assert_allclose(outputs.logits, plain.logits, atol=1e-2)
        for one, other in zip(outputs.features, plain.features, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert cached.counts == {"hits": 12, "computed": 0, "damaged": 0}
    assert cached.restrict(features=False)(IMAGES).features == ()


def test_padding_and_flips_are_those_of_one_teacher(path: Path, tmp_path: Path) -> None:
    ensemble = Ensemble(networks(path)[:2])
    pipeline = InputPipeline(
        CachedTeacher(ensemble, tmp_path / "cache", image_size=SIZE),
        Augmentation("flip", None),
        seed=0,
        keys_of=content_keys_by_pixels,
    )
    images = (np.asarray(IMAGES) * 255).astype(np.uint8)
    ones = np.ones(3, np.float32)
    batch = Batch(images, np.zeros((3, *SIZE, 1), np.uint8), ones, ones, np.arange(3))
    for given, outputs in pipeline([batch] * 4):
        np.testing.assert_allclose(outputs.logits, ensemble(given.images).logits, atol=1e-2)


def configured(path: Path, teachers: object) -> config.Config:
    tree = {
        "run": "run",
        "data": {"root": "data", "image_size": list(SIZE)},
        "teacher": teachers,
        "detector": {"onnx": str(path)},
        "features": [{"tensor": "inner"}],
    }
    return config.check(tree, "test")


def two(path: Path) -> list[dict]:
    return [
        {"onnx": str(path), "tensor": "score", "normalization": "unit", "weight": 3},
        {"onnx": str(path), "output": "probabilities", "size": [16, 48]},
    ]


def test_a_list_of_teachers_is_configured(path: Path) -> None:
    settings = configured(path, two(path))
    teacher = from_config(settings)
    outputs = teacher(IMAGES)
    members = [
        Onnx(path, tensor="score", normalization="unit"),
        Onnx(path, output="probabilities", size=(16, 48)),
    ]
    np.testing.assert_allclose(
        outputs.logits, Ensemble(members, [3, 1])(IMAGES).logits, rtol=1e-4, atol=1e-5
    )
    assert len(outputs.features) == 1
    lines = base.describe_teacher(teacher)
    assert ["75% of the mean" in line for line in lines] == [True, False, False]
    assert "unit" in lines[0]
    assert "16 x 48" in lines[1]
    assert {*base.file_fingerprints(teacher)} == {"teacher.0", "teacher.1", "detector"}
    json.dumps(teacher.provenance)
    assert settings.imitates
    assert config.check(json.loads(settings.model_dump_json()), "again") == settings
    assert config.with_absolute_paths(settings).teachers[1].onnx == path.absolute()
    assert from_config(configured(path, two(path)[:1])).restrict(features=False).mask is not None


def test_mistakes_in_a_list_are_named_by_their_place(path: Path, tmp_path: Path) -> None:
    first, second = two(path)
    for wrong, code in (
        ({**second, "outputt": 1}, "unknown-key"),
        ({**second, "output": "maybe"}, "unknown-value"),
        ({**second, "weight": 0}, "out-of-range"),
        ({"tensor": "score"}, "missing-key"),
    ):
        with pytest.raises(ConfigError) as caught:
            configured(path, [first, wrong])
        assert caught.value.code == code
        assert "teacher.1." in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        preflight.check(configured(path, [first, {**second, "onnx": "gone.onnx"}]))
    assert caught.value.code == "no-such-file"
    assert "teacher.1.onnx" in str(caught.value)
    with pytest.raises(NetworkError) as caught:
        from_config(configured(path, [first, {**second, "channel": 2}]))
    assert caught.value.code == "teacher-channels"
    with pytest.raises(ConfigError) as caught:
        configured(path, [])
    assert caught.value.code == "teacher-needed"


def test_a_moved_file_of_a_list_is_no_other_setting(path: Path) -> None:
    def provenance(**changes: object) -> dict:
        first, second = two(path)
        settings = configured(path, [first, {**second, **changes}])
        return {"settings": settings.model_dump(mode="json"), "files": {}}

    assert not differences(provenance(), provenance(onnx="moved.onnx"))
    [line] = differences(provenance(), provenance(weight=2.0))
    assert line.startswith("teacher.1.weight")


def test_each_of_several_teachers_is_doubted(path: Path) -> None:
    members = [Onnx(path), Onnx(path, output="probabilities"), Onnx(path)]
    images = (np.asarray(IMAGES) * 255).astype(np.uint8)
    assert len(list(plausibility.doubts(Ensemble(members), images))) == 2
