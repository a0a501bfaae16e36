"""The cached teacher: what is computed again, and what never is."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx_models import save, segmenter

from jaxdistill.runtime.errors import CacheError
from jaxdistill.teachers import base
from jaxdistill.teachers.base import Teacher
from jaxdistill.teachers.combined import Combined
from jaxdistill.teachers.onnx_teacher import Onnx
from jaxdistill.teachers.target_cache import CachedEncoder, CachedTeacher, content_key
from jaxdistill.types import TeacherOutputs

SIZE = (32, 64)
COUNT = 3  # images in a batch, of which the last one is padding


class Counting:
    """A teacher that counts the images it is given."""

    def __init__(self, teacher: Teacher, counts: list[int] | None = None) -> None:
        self._teacher = teacher
        self.provenance, self.output_shapes = teacher.provenance, teacher.output_shapes
        self.counts = [0] if counts is None else counts

    def __call__(self, images: jax.Array) -> TeacherOutputs:
        self.counts[0] += len(images)
        return self._teacher(images)

    def restrict(self, *, logits: bool, features: bool) -> "Counting":
        fewer = base.restrict(self._teacher, logits=logits, features=features)
        return fewer and Counting(fewer, self.counts)

    @property
    def images(self) -> int:
        return self.counts[0]


@pytest.fixture
def teacher(tmp_path_factory: pytest.TempPathFactory, on_a_cpu: None) -> Combined:
    """On a GPU, entries are completed with whole batches; there is a test of that."""
    path = save(segmenter(), tmp_path_factory.mktemp("network"))
    detector = Onnx(path, output=None, features=["inner", "deep"])
    return Combined(Onnx(path, tensor="score", normalization="unit"), detector)


def batch(flipped: tuple[bool, ...] = (False, True, False), keys: tuple[str, ...] = ("4", "5", "")):
    images = np.random.default_rng(0).uniform(size=(COUNT, *SIZE, 3)).astype(np.float32)
    return jnp.asarray(images), keys, np.asarray(flipped), np.asarray([1.0, 1, 0])


def test_the_second_time_nothing_is_computed(tmp_path: Path, teacher: Combined) -> None:
    counting = Counting(teacher)
    first = CachedTeacher(counting, tmp_path)(*batch())
    assert counting.images == 2  # padding is no image
    again = CachedTeacher(counting, tmp_path)
    second = again(*batch())
    assert counting.images == 2
    assert again.counts == {"hits": 4, "computed": 0, "damaged": 0}
    plain = teacher(batch()[0])
    pairs = zip(
        (first.logits, *first.features),
        (second.logits, *second.features),
        (plain.logits, *plain.features),
        strict=True,
    )
    for one, two, uncached in pairs:
        assert one.dtype == jnp.float16
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one[:2], uncached[:2], rtol=2**-11)
        assert not np.asarray(one[2]).any()


def test_a_flipped_image_and_another_image_have_entries_of_their_own(
    tmp_path: Path, teacher: Combined
) -> None:
    counting = Counting(teacher)
    cached = CachedTeacher(counting, tmp_path, image_size=SIZE)
    cached(*batch())
    cached(*batch(flipped=(True, True, False)))
    assert counting.images == 3
    cached(*batch(keys=("4", "6", "")))
    assert counting.images == 4
    assert cached.contains("6", True)
    assert not cached.contains("6", False)


def test_called_like_a_plain_teacher_it_hashes_the_images(
    tmp_path: Path, teacher: Combined
) -> None:
    counting = Counting(teacher)
    images = batch()[0]
    first = CachedTeacher(counting, tmp_path)(images)
    assert counting.images == COUNT
    changed = images.at[1].multiply(0.5)
    second = CachedTeacher(counting, tmp_path)(changed)
    assert counting.images == COUNT + 1
    np.testing.assert_array_equal(first.logits[::2], second.logits[::2])
    assert not np.array_equal(first.logits[1], second.logits[1])


def test_a_gpu_completes_an_entry_with_a_whole_batch(
    tmp_path: Path, teacher: Combined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch size would cost it another program and another search for algorithms."""
    encoded = []

    def encode(images):
        encoded.append(len(images))
        return [images[:, ::2, ::2]]

    encoder = CachedEncoder({"weights": "none"}, [(SIZE[0] // 2, SIZE[1] // 2, 3)], encode)
    images, *rest = batch()
    wanted = CachedTeacher(Counting(teacher), tmp_path / "cpu", encoder=encoder)(images, *rest)
    assert encoded == [1, 1]

    class Gpu:
        platform = "cuda"

    monkeypatch.setattr(type(images), "devices", lambda self: {Gpu()})
    counting = Counting(teacher)
    cached = CachedTeacher(counting, tmp_path / "gpu", encoder=encoder)
    got = cached(images, *rest)
    assert counting.images == COUNT
    assert encoded[2:] == [COUNT]
    assert cached.counts["computed"] == 6  # three kinds of two images
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_content_keys_tell_images_apart() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    keys = {
        content_key(image)
        for image in (pixels, pixels + 1, pixels.reshape(6, 4, 3), pixels.astype(np.float32))
    }
    assert len(keys) == 4
    assert content_key(pixels.copy()) == content_key(pixels)


def test_outputs_are_cached_apart(tmp_path: Path, teacher: Combined) -> None:
    counting = Counting(teacher)
    mask = CachedTeacher(counting, tmp_path).restrict(features=False)
    assert mask(*batch()).features == ()
    assert counting.images == 2
    whole = CachedTeacher(counting, tmp_path)
    whole(*batch())
    assert whole.counts == {"hits": 2, "computed": 2, "damaged": 0}
    features = whole.restrict(logits=False)
    assert features(*batch()).logits is None
    assert features.counts == {"hits": 2, "computed": 0, "damaged": 0}
    assert whole.restrict(logits=False, features=False) is None


def test_other_sizes_and_settings_share_nothing(tmp_path: Path, teacher: Combined) -> None:
    CachedTeacher(teacher, tmp_path)(*batch())
    path = teacher.restrict(features=False).graph.path
    other = CachedTeacher(Onnx(path, tensor="mask", normalization="unit"), tmp_path)
    other(*batch())
    assert other.counts["computed"] == 2
    small = CachedTeacher(teacher, tmp_path, image_size=(32, 32))
    assert not small.contains("4")
    with pytest.raises(CacheError) as caught:
        small(*batch())
    assert caught.value.code == "cache-image-size"


def test_a_damaged_entry_is_set_aside_and_computed_again(
    tmp_path: Path, teacher: Combined, caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting(teacher)
    intact = CachedTeacher(counting, tmp_path)(*batch(keys=("44", "55", "")))
    (entry,) = tmp_path.glob("features-*/*/44.safetensors")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    own = CachedTeacher(counting, tmp_path)
    with caplog.at_level(logging.WARNING):
        mended = own(*batch(keys=("44", "55", "")))
    assert own.counts == {"hits": 3, "computed": 1, "damaged": 1}
    assert counting.images == 3
    assert str(entry) in caplog.text
    assert entry.with_name("44.safetensors.damaged").read_bytes() == content
    np.testing.assert_array_equal(mended.features[0], intact.features[0])
    CachedTeacher(counting, tmp_path)(*batch(keys=("44", "55", "")))
    assert counting.images == 3


def encoder(version: str) -> CachedEncoder:
    def encode(images: jax.Array) -> list[jax.Array]:
        return [images[:, ::2, ::2], images[:, ::4, ::4, :1]]

    return CachedEncoder({"weights": version}, [(16, 32, 3), (8, 16, 1)], encode)


@pytest.mark.parametrize("alone", [False, True])
def test_feature_maps_of_a_frozen_encoder_are_cached_too(
    tmp_path: Path, teacher: Combined, alone: bool
) -> None:
    plain = CachedTeacher(None if alone else teacher, tmp_path)
    cached = plain.with_encoder(encoder("1"), SIZE)
    images = batch()[0]
    cached(*batch())
    outputs = cached(*batch())
    assert cached.counts["computed"] == cached.counts["hits"] == (2 if alone else 6)
    np.testing.assert_allclose(outputs.encoder_features[0][:2], images[:2, ::2, ::2], atol=1e-3)
    assert outputs.encoder_features[1].shape == (COUNT, 8, 16, 1)
    assert (outputs.logits is None) == alone
    assert cached.entry_bytes - (plain.with_encoder(None, SIZE).entry_bytes) == 2 * (
        16 * 32 * 3 + 8 * 16
    )
    assert not plain.with_encoder(encoder("2"), SIZE).contains("4")


def test_a_teacher_must_declare_its_provenance(tmp_path: Path) -> None:
    def mask(images: jax.Array) -> TeacherOutputs:
        return TeacherOutputs(images[..., :1])

    with pytest.raises(CacheError) as caught:
        CachedTeacher(mask, tmp_path)
    assert caught.value.code == "cache-provenance"
    mask.provenance = {"version": 1}
    outputs = CachedTeacher(mask, tmp_path)(*batch())
    assert outputs.logits.shape == (COUNT, *SIZE, 1)


def test_a_cached_teacher_is_described_as_its_teacher(tmp_path: Path, teacher: Combined) -> None:
    cached = teacher.cached(tmp_path)
    assert cached.provenance == teacher.provenance
    assert cached.output_shapes(SIZE) == teacher.output_shapes(SIZE)
    assert cached.describe()[:-1] == teacher.describe()
    with pytest.raises(ValueError, match="image_size"):
        cached.contains("4")
