"""Tables of Hugging Face: their columns, files that a row names, and damage."""

import layouts
import pyarrow as pa
import pytest
from folder_data import assert_same, opened
from layouts import put
from refused import refused

from jaxdistill import data
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.runtime.errors import DataError

PHOTOS = layouts.photos()


def test_tables_are_read_whatever_their_columns_are_called(tmp_path):
    root = layouts.hugging_face(tmp_path, PHOTOS, columns=("a", "b"))
    layouts.hugging_face(tmp_path, PHOTOS, "validation", columns=("a", "b"))
    with refused(DataError, "unknown-columns", "a, b"):
        _ = opened(root).train
    found = opened(root, mask_column="b").train
    assert_same(found, PHOTOS)
    assert list(found.names) == [photo.name for photo in PHOTOS]


def test_what_the_library_keeps_beside_the_data_is_left_alone(tmp_path):
    """`map` and `filter` write their results into the folder of a data set."""
    root = layouts.hugging_face(tmp_path, PHOTOS)
    layouts.hugging_face(tmp_path, PHOTOS, "validation")
    for path in list((root / "train").glob("data-*.arrow")):
        put(root / "train" / f"cache-{path.stem}.arrow", path.read_bytes())
    assert_same(opened(root).train, PHOTOS)


def test_tables_of_another_folder_have_a_fingerprint(tmp_path):
    layouts.hugging_face(tmp_path, PHOTOS, kind="parquet")
    (tmp_path / "pictures").mkdir()
    split = {"images": "pictures", "annotations": "data/train-*.parquet"}
    found = data.open(
        tmp_path,
        source="hugging_face",
        train=split,
        validation=split,
        prepared=tmp_path / "prepared",
    )
    assert found.train.fingerprint


def test_a_row_that_names_a_file_elsewhere_is_refused(tmp_path):
    outside = put(tmp_path / "secret.png", PHOTOS[0].image)
    root = tmp_path / "data"
    for split in ("train", "test"):
        layouts.hugging_face(root, PHOTOS, split)
    for place, code in (("../../secret.png", "bad-file-name"), (str(outside), "bad-file-name")):
        name_file(root / "train/data-00000-of-00002.arrow", place)
        with refused(DataError, code, "secret.png"):
            _ = opened(root).train


def name_file(path, place):
    """Lets the first row of a table name a file in place of its image."""
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    rows = table.to_pylist()
    rows[0]["image"] = {"bytes": None, "path": place}
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, table.schema))


def test_files_beside_the_tables_are_noticed_when_they_change_and_counted(tmp_path):
    for split in ("train", "test"):
        layouts.hugging_face(tmp_path, PHOTOS, split)
    name_file(tmp_path / "train/data-00000-of-00002.arrow", "pictures/1.png")
    image = put(tmp_path / "train/pictures/1.png", PHOTOS[0].image)
    assert_same(opened(tmp_path).train, PHOTOS)
    image.write_bytes(PHOTOS[1].image)
    assert_same(opened(tmp_path).train, [PHOTOS[0]._replace(image=PHOTOS[1].image), *PHOTOS[1:]])
    [source] = sources_of(opened(tmp_path).settings, "train")
    first, before = source.entries()[0], source.size(source.entries()[0])
    image.write_bytes(PHOTOS[1].image + bytes(2000))
    [source] = sources_of(opened(tmp_path).settings, "train")
    assert source.size(first) == before + 1000


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "https://example.org/1.png", ".."])
def test_a_name_that_is_no_file_is_none(tmp_path, name):
    layouts.hugging_face(tmp_path, [PHOTOS[0]._replace(name=name), *PHOTOS[1:]])
    layouts.hugging_face(tmp_path, PHOTOS, "test")
    assert_same(opened(tmp_path).train, PHOTOS)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_damaged_table_is_named(tmp_path, kind):
    for split in ("train", "validation"):
        layouts.hugging_face(tmp_path, PHOTOS, split, kind)
    [path, _] = sorted(tmp_path.rglob(f"*train*.{kind}")) or sorted(tmp_path.glob("train/*.arrow"))
    path.write_bytes(b"nothing")
    with refused(DataError, "damaged-table", path.name):
        _ = opened(tmp_path).train
