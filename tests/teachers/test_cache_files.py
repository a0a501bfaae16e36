"""The target store: what is kept, how damage shows, and runs that share it."""

import errno
import logging
import multiprocessing
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill import config
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers import cache_files
from jaxdistill.teachers.cache_files import Damaged, Shelf
from jaxdistill.teachers.onnx_teacher import FrozenNetworks
from jaxdistill.teachers.target_cache import StoredTargets

SHAPES = ((4, 6, 3), (2, 3, 5))
SIZE = (64, 64)


def shelf(root: Path, **identity: object) -> Shelf:
    return Shelf(root, "features", {"file": "abc", **identity}, SHAPES)


def arrays(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 30, shape).astype(np.float32) for shape in SHAPES]


def test_what_was_written_is_read_in_float16(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    assert own.read(7, False) is None
    assert not own.holds(7, False)
    kept = own.write(7, False, arrays())
    assert own.holds(7, False)
    assert not own.holds(7, True)
    for read, kept_one, given_one in zip(own.read(7, False), kept, arrays(), strict=True):
        np.testing.assert_array_equal(read, kept_one)
        np.testing.assert_array_equal(read, given_one.astype(np.float16))
    assert own.entry_bytes == sum(array.nbytes for array in kept)


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        shelf(tmp_path).write(7, False, arrays())
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*") if path.is_file()}
    assert modes == {0o640}


def test_an_entry_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    own = shelf(tmp_path)
    own.write(7, False, arrays())

    def forbidden(path: Path, **_: object) -> None:
        raise FileNotFoundError(path)  # as safetensors says it

    monkeypatch.setattr(cache_files, "safe_open", forbidden)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(UserError, match=r"may not be read by you; .*chmod"):
        own.read(7, False)
    assert own.read(8, False) is None


def test_whatever_values_depend_on_has_a_shelf_of_its_own(tmp_path: Path) -> None:
    shelf(tmp_path).write(1, False, arrays())
    assert shelf(tmp_path).holds(1, False)
    assert not shelf(tmp_path, file="abd").holds(1, False)
    assert not shelf(tmp_path, normalization="unit").holds(1, False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, Path, bytes]:
    own = shelf(tmp_path_factory.mktemp("store"))
    own.write(3, True, arrays())
    (path,) = own.folder.glob("*/3-flipped.safetensors")
    return own, path, path.read_bytes()


@given(st.data())
def test_no_damage_goes_unseen(written: tuple[Shelf, Path, bytes], data: st.DataObject) -> None:
    own, path, sound = written
    place = data.draw(st.integers(0, len(sound) - 1))
    if data.draw(st.booleans()):
        damaged = sound[:place]
    else:
        flipped = sound[place] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = sound[:place] + bytes([flipped]) + sound[place + 1 :]
    path.write_bytes(damaged)
    try:
        entry = own.read(3, True)
    except Damaged:
        return
    # A changed byte of the header that says nothing (a space, say) changes no number.
    for array, original in zip(entry, arrays(), strict=True):
        np.testing.assert_array_equal(array, original.astype(np.float16))


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    values = arrays()
    values[1][0, 0, 0] = value
    with pytest.raises(UserError, match=r"picture 5 .*float16 cannot hold"):
        shelf(tmp_path).write(5, False, values)
    assert not shelf(tmp_path).holds(5, False)


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path: Path, monkeypatch) -> None:
    own = shelf(tmp_path)

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot write to the target store .*No space left"):
        own.write(1, False, arrays())
    assert not own.holds(1, False)
    assert not list((own.folder / "partial").iterdir())


def _write_many(root: Path, rounds: int) -> None:
    own = shelf(root)
    for _ in range(rounds):
        own.write(1, False, arrays())


def test_writers_at_once_do_no_harm(tmp_path: Path) -> None:
    own = shelf(tmp_path)
    own.write(1, False, arrays())
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, 200)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        entry = own.read(1, False)
        np.testing.assert_array_equal(entry[0], arrays()[0].astype(np.float16))
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 10
    assert not list((own.folder / "partial").iterdir())


class Counting:
    """Frozen networks that count the pictures they are given."""

    def __init__(self, networks: FrozenNetworks) -> None:
        self._networks, self.pictures = networks, 0
        self.roles, self.feature_shapes = networks.roles, networks.feature_shapes

    def targets(self, images, roles):
        self.pictures += len(images)
        return self._networks.targets(images, roles)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> FrozenNetworks:
    place = tmp_path_factory.mktemp("networks")
    return FrozenNetworks(tiny_run.make(place))


def stored(root: Path, networks: object, data: str = "pictures") -> StoredTargets:
    return StoredTargets(root, networks, data, SIZE, None)


def batch(flipped: tuple[bool, ...] = (False, True, False)):
    images = np.random.default_rng(0).uniform(size=(3, *SIZE, 3)).astype(np.float32)
    return jnp.asarray(images), np.asarray([4, 5, 0]), np.asarray(flipped), np.asarray([1.0, 1, 0])


def test_the_second_time_nothing_is_computed(tmp_path: Path, networks: FrozenNetworks) -> None:
    counting = Counting(networks)
    first = stored(tmp_path, counting).targets(*batch())
    assert counting.pictures == 2  # padding is not a picture
    again = stored(tmp_path, counting)
    second = again.targets(*batch())
    assert counting.pictures == 2
    assert again.counts == {"read": 4, "computed": 0, "damaged": 0}
    plain = networks.targets(batch()[0])
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


def test_a_flipped_picture_and_other_data_are_entries_of_their_own(
    tmp_path: Path, networks: FrozenNetworks
) -> None:
    counting = Counting(networks)
    stored(tmp_path, counting).targets(*batch())
    stored(tmp_path, counting).targets(*batch(flipped=(True, True, False)))
    assert counting.pictures == 3
    stored(tmp_path, counting, data="others").targets(*batch())
    assert counting.pictures == 5


def test_a_damaged_entry_is_computed_again_and_counted(
    tmp_path: Path, networks: FrozenNetworks, caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting(networks)
    sound = stored(tmp_path, counting).targets(*batch())
    (entry,) = tmp_path.glob("detector-*/*/4.safetensors")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    own = stored(tmp_path, counting)
    with caplog.at_level(logging.WARNING):
        mended = own.targets(*batch())
    assert own.counts == {"read": 3, "computed": 1, "damaged": 1}
    assert counting.pictures == 3
    assert str(entry) in caplog.text
    np.testing.assert_array_equal(mended.features[0], sound.features[0])
    assert stored(tmp_path, counting).targets(*batch()) is not None
    assert counting.pictures == 3


@pytest.mark.parametrize("kind", ["light", "heavy"])
def test_pictures_painted_anew_each_time_are_not_kept_unless_the_user_says_so(
    tmp_path: Path, kind: str
) -> None:
    more = [*tiny_run.overrides(tmp_path), f"targets.cache={tmp_path}", f"data.augment={kind}"]
    with pytest.raises(UserError, match=r"targets\.cache cannot keep .* targets\.clean_images"):
        config.load(tiny_run.SPECIFIED, more)
    settings = config.load(tiny_run.SPECIFIED, [*more, "targets.clean_images=true"])
    assert settings.targets.cache == tmp_path
