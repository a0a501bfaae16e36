"""Readers of untrusted files, each with small valid files to damage."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import coco_folders
import damage
import layouts
import numpy as np
import safetensors.numpy
import tiny_run
import yaml
from hypothesis import strategies as st
from made_run import Page, line, make
from PIL import Image

from jaxdistill import config
from jaxdistill.data import decode, splits
from jaxdistill.data import layouts as layouts_lib
from jaxdistill.data.sources import coco_json, drawing
from jaxdistill.data.sources.selection import sources_of
from jaxdistill.models import weights
from jaxdistill.reporting import html as html_lib
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.cache_files import CacheFolder, DamagedEntryError

Files = dict[str, bytes]
"""Contents of files by name."""


class Reader(NamedTuple):
    """Code that reads untrusted files, and the files that it is tested with."""

    title: str
    hostile: st.SearchStrategy[Files]
    """Damaged files, which replace valid ones of the same name in a folder."""
    read: Callable[[Path], object]
    """Reads the files of that folder."""
    refuses: tuple[type[Exception], ...] = (UserError,)
    cost: int = 1
    """Time of an example, relative to the cheapest reader."""


READERS: dict[str, Callable[[Path], Reader]] = {}


def reader(make: Callable[[Path], Reader]) -> Callable[[Path], Reader]:
    READERS[make.__name__] = make
    return make


def one_of(folder: Path, names: list[Path]) -> st.SearchStrategy[Files]:
    """One of these files of the folder, damaged."""
    sound = {str(path.relative_to(folder)): path.read_bytes() for path in names}
    return st.sampled_from(sorted(sound)).flatmap(
        lambda name: damage.bytes_of([sound[name]]).map(lambda content: {name: content})
    )


def named(name: str, contents: st.SearchStrategy[bytes | str]) -> st.SearchStrategy[Files]:
    def encoded(content: bytes | str) -> Files:
        return {name: content if isinstance(content, bytes) else content.encode("utf-8", "replace")}

    return contents.map(encoded)


@reader
def configuration(folder: Path) -> Reader:
    sound = (tiny_run.ROOT / "configs" / "demo.yaml").read_bytes()
    shipped = config.load(tiny_run.SPECIFIED).model_dump(mode="json")
    tokens = ["a: ", "- ", "&a ", "*a", "<<: ", "{", "}", "[", "]", ",", "\n", "  ", "? ", ": "]
    tokens += ["!!int ", "!!bool ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!python/x "]
    tokens += [
        "'",
        '"',
        "\\",
        "|",
        ">",
        "#",
        "%",
        "---\n",
        "1e9",
        "0x",
        "0b",
        "2001-01-01",
        "1:1:1",
    ]
    tokens += ["~", "\t", "\0", "extends: ", "config.yaml", "data: ", "run: "]
    soup = st.lists(st.sampled_from(tokens), max_size=30).map("".join)
    texts = st.one_of(
        damage.bytes_of([sound, config.dump(config.load(tiny_run.SPECIFIED)).encode()]),
        soup,
        damage.json_of([shipped]),
    )
    return Reader(
        "config YAML", named("config.yaml", texts), lambda f: config.load(f / "config.yaml")
    )


@reader
def annotations(folder: Path) -> Reader:
    coco_folders.discs(folder / "coco", train=2, validation=1)
    [train, _] = sorted((folder / "coco" / "annotations").glob("*"), reverse=True)[:2]
    sound = json.loads(train.read_bytes())
    rle = {"size": [48, 48], "counts": [100, 30, 2174]}
    sound["annotations"][0]["segmentation"] = rle
    other = json.loads(json.dumps(sound))
    other["annotations"][0]["segmentation"] = {"size": [48, 48], "counts": "T3n0b>"}

    def read(place: Path) -> None:
        path = place / "annotations.json"
        for image in coco_json.images_with_people(path, path.read_bytes()).images:
            (place / image.name).relative_to(place)
            assert ".." not in Path(image.name).parts
            if (image.height, image.width) == (48, 48):  # otherwise no mask is drawn
                drawing.draw(image)

    texts = st.one_of(
        damage.json_of([sound, other]),
        damage.bytes_of([json.dumps(sound).encode(), json.dumps(other).encode()]),
    )
    return Reader("annotation JSON", named("annotations.json", texts), read)


@reader
def other_annotations(folder: Path) -> Reader:
    photos = layouts.photos(2)
    layouts.yolo(folder / "yolo", photos)
    layouts.labelme(folder / "labelme", photos[:1])
    layouts.labelme(folder / "labelme", photos[1:], inside=True)
    layouts.supervisely(folder / "supervisely", photos, "a")
    layouts.supervisely(folder / "supervisely", photos, "b", "polygon")
    layouts.hugging_face(folder / "hugging_face", photos)
    layouts.hugging_face(folder / "parquet", photos, kind="parquet")
    layouts.mask_folder(folder / "mask_folder", photos)
    roots = ["yolo", "labelme", "supervisely", "hugging_face", "parquet", "mask_folder"]

    def read(place: Path) -> None:
        for name in roots:
            data = config.Data(root=place / name, source=name.replace("parquet", "hugging_face"))
            settings = layouts_lib.recognise(data, need_validation=False).settings
            [source] = sources_of(settings, "train")
            for entry in source.list_images():
                source.load(entry)

    files = [path for path in folder.rglob("*") if path.is_file() and "images" not in path.parts]
    return Reader("other annotations and masks", one_of(folder, files), read, cost=4)


def encoded() -> list[bytes]:
    """Returns an image in every format and form that Pillow can write."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (19, 23, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    frames = [colour.rotate(angle) for angle in (90, 180)]
    forms = [
        *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
        ("JPEG", "RGB", {"progressive": True, "exif": exif, "icc_profile": b"x" * 200}),
        *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "LA")),
        ("PNG", "RGB", {"save_all": True, "append_images": frames, "exif": exif}),
        ("WEBP", "RGB", {"exif": exif}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": frames}),
        *(("BMP", mode, {}) for mode in ("RGB", "RGBA", "P", "1")),
        *(
            ("TIFF", mode, {"compression": compression})
            for mode, compression in (
                *(("RGB", "raw"), ("RGBA", "tiff_lzw"), ("L", "tiff_deflate"), ("RGB", "jpeg")),
                *(("1", "group4"), ("I;16", "raw"), ("F", "raw"), ("CMYK", "packbits")),
            )
        ),
        ("TIFF", "RGB", {"save_all": True, "append_images": frames, "exif": exif}),
    ]
    files = []
    for form, mode, options in forms:
        file = io.BytesIO()
        source = Image.new(mode, (23, 19), 7) if mode in ("I;16", "F") else colour.convert(mode)
        source.save(file, form, **options)
        files.append(file.getvalue())
    return files


@reader
def images(folder: Path) -> Reader:
    def read(place: Path) -> None:
        content = (place / "image").read_bytes()
        for upright in (False, True):
            pixels = decode.decode(content, upright)
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
        decode.decode_mask(content)

    hostile = named("image", damage.bytes_of(encoded()))
    return Reader("JPEG, PNG, WEBP, BMP, TIFF", hostile, read, (decode.ImageError,))


def headers(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file whose header says something else."""
    length = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + length])

    def whole(text: str) -> bytes:
        header = text.encode("utf-8", "replace")
        return len(header).to_bytes(8, "little") + header + content[8 + length :]

    return damage.json_of([tree]).map(whole)


@reader
def safetensors_files(folder: Path) -> Reader:
    arrays = {"encoder.a": np.ones((3, 2), np.float32), "encoder.b": np.ones(5, np.float16)}
    about = {"encoder": "lite", "normalization": "[[0, 0, 0], [1, 1, 1]]"}
    content = safetensors.numpy.save(arrays, about)

    def read(place: Path) -> None:
        path = place / "weights.safetensors"
        loaded, _ = weights.load_for("lite", path)
        weights.fill(arrays, loaded, path)

    hostile = st.one_of(damage.bytes_of([content]), headers(content))
    return Reader("weights, safetensors", named("weights.safetensors", hostile), read)


@reader
def cache_entries(folder: Path) -> Reader:
    cache = CacheFolder(folder / "cache", "logits", {}, [(2, 3, 1), (4, 1, 2)])
    cache.write("07", False, [np.ones(shape, np.float16) for shape in cache.shapes])
    path = cache.entry_path("07", False)
    hostile = st.one_of(damage.bytes_of([path.read_bytes()]), headers(path.read_bytes()))

    def read(place: Path) -> None:
        entry = cache.read("07", False)
        assert entry is not None
        for array, shape in zip(entry, cache.shapes, strict=True):
            assert array.dtype == np.float16
            np.testing.assert_array_equal(array, np.ones(shape))

    return Reader(
        "cache entries", named(str(path.relative_to(folder)), hostile), read, (DamagedEntryError,)
    )


@reader
def run_page(folder: Path) -> Reader:
    lines = [line(epoch) for epoch in (1, 2, 3)]
    provenance = {"Data": {"images": 8, "names": ["a", "b"]}, "Files": {"teacher": None}}
    run = make(folder / "run", lines, provenance=provenance)
    settings = yaml.safe_load((run / "config.yaml").read_text())

    def jsonl(texts: list[str]) -> bytes:
        return "\n".join(texts).encode("utf-8", "replace")

    metrics = st.lists(damage.json_of(lines), min_size=1, max_size=4).map(jsonl)
    several = st.fixed_dictionaries(
        {},
        optional={
            "run/metrics.jsonl": metrics,
            "run/provenance.json": damage.json_of([provenance]).map(
                lambda t: t.encode("utf-8", "replace")
            ),
            "run/config.yaml": damage.json_of([settings]).map(
                lambda t: t.encode("utf-8", "replace")
            ),
        },
    )
    files = [path for path in run.rglob("*") if path.is_file()]
    script = html_lib.render(run).count("<script")

    def read(place: Path) -> None:
        html = html_lib.render(place / "run")
        html.encode()
        assert len(Page(html).all("script")) == script

    hostile = st.one_of(several, one_of(folder, files))
    return Reader("a run's folder, for its page", hostile, read, cost=4)


@reader
def prepared_data(folder: Path) -> Reader:
    coco_folders.discs(folder / "coco", train=3, validation=2)
    data = config.Data(root=folder / "coco", prepared=folder / "prepared", image_size=(32, 32))
    splits.open_split(data, "train")
    files = [path for path in (folder / "prepared").rglob("*") if path.is_file()]

    def read(place: Path) -> None:
        examples = splits.open_split(data, "train")
        for index in range(len(examples)):
            examples[index]

    return Reader("a prepared data set", one_of(folder, files), read, cost=3)
