"""The contact sheet of a data set: its counts, and images with their masks, as HTML or PNG."""

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdistill.data.data_check import CheckedImage, CheckedSplit, DataCheck
from jaxdistill.reporting.html.environment import environment, static
from jaxdistill.runtime.text import printable

SAMPLES = 24
"""Number of images of a split that are shown."""
_FLAGGED = 8  # images that are shown of each kind of doubt
_TILE = (240, 180)  # width and height in pixels
_PERSON = np.array([255, 64, 112], np.float32)
_BOUNDS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Bounds of the histogram of how much of an image is a person."""
_PAPER, _INK, _QUIET = (251, 251, 250), (28, 30, 33), (102, 107, 114)
_GAP, _COLUMNS = 16, 6


class Tile(NamedTuple):
    """An image of the sheet."""

    image: Image.Image
    title: str
    caption: str

    @property
    def source(self) -> str:
        """The image as a data URL."""
        encoded = io.BytesIO()
        self.image.save(encoded, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


class Section(NamedTuple):
    """Images that belong together."""

    title: str
    lines: Sequence[str]
    tiles: Sequence[Tile]
    bars: Sequence[tuple[str, int, float]] = ()
    """A histogram: label, number of images, and height of the bar as a share of the highest."""


def summary(found: DataCheck) -> list[str]:
    """Returns lines for people about what was found.

    Args:
      found: The check of a folder.
    """
    lines = [found.layout_note] if found.layout_note else []
    for key, split in found.splits.items():
        lines += [f"data.{key}: {part}" for part in _describe(split)]
    return [*lines, *_duplicates(found)]


def html(found: DataCheck, samples: int = SAMPLES) -> str:
    """Returns the sheet as a page for any browser, in one file.

    Args:
      found: The check of a folder.
      samples: Number of images of each split that are shown.
    """
    template = environment().get_template("data_sheet.html")
    page = template.render(
        title=str(found.settings.root),
        note=found.layout_note.removeprefix("data: "),
        headlines=list(_headlines(found)),
        lines=list(_duplicates(found)),
        sections=list(sections(found, samples)),
        style=static("style.css"),
    )
    return page.removesuffix("\n").encode(errors="replace").decode()


def png(found: DataCheck, samples: int = SAMPLES) -> bytes:
    """Returns the sheet as an image.

    Args:
      found: The check of a folder.
      samples: Number of images of each split that are shown.
    """
    shown = [section for section in sections(found, samples) if section.tiles]
    cell = _TILE[0] + _GAP, _TILE[1] + 44 + _GAP
    rows = [-(-len(section.tiles) // _COLUMNS) for section in shown]
    height = 92 + sum(64 + count * cell[1] for count in rows)
    sheet = Image.new("RGB", (_COLUMNS * cell[0] + _GAP, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 18), _short(str(found.settings.root), 90), _INK, ImageFont.load_default(26))
    remarks = "  ·  ".join(f"{value} {name}" for name, value, _ in _headlines(found))
    pen.text((_GAP, 56), remarks, _QUIET, ImageFont.load_default(16))
    top = 92
    for section, count in zip(shown, rows, strict=True):
        pen.text((_GAP, top + 18), section.title, _INK, ImageFont.load_default(20))
        for place, tile in enumerate(section.tiles):
            left = _GAP + place % _COLUMNS * cell[0]
            upper = top + 56 + place // _COLUMNS * cell[1]
            inset = (_TILE[0] - tile.image.width) // 2, _TILE[1] - tile.image.height
            sheet.paste(tile.image, (left + inset[0], upper + inset[1]))
            below = upper + _TILE[1] + 6
            pen.text((left, below), _short(tile.title, 30), _INK, ImageFont.load_default(14))
            pen.text((left, below + 18), tile.caption, _QUIET, ImageFont.load_default(13))
        top += 64 + count * cell[1]
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def sections(found: DataCheck, samples: int = SAMPLES) -> Iterator[Section]:
    """Yields the parts of the sheet: a sample of each split, and what is doubtful.

    Args:
      found: The check of a folder.
      samples: Number of images of each split that are shown.
    """
    for key, split in found.splits.items():
        usable = split.usable
        places = np.unique(np.linspace(0, len(usable) - 1, samples, dtype=int)) if usable else ()
        tiles = _tiles(found, [usable[i] for i in places])
        yield Section(f"data.{key}", list(_describe(split)), tiles, _histogram(split))
    splits = found.splits.values()
    for title, text, images in (
        ("Empty masks", "Nobody is in these masks.", [i for s in splits for i in s.empty]),
        ("Full masks", "All of the image is a person.", [i for s in splits for i in s.full]),
        ("In both splits", "The pixels are equal.", [i for group in found.across for i in group]),
        ("Duplicates", "The pixels are equal.", [i for group in found.within for i in group]),
    ):
        if images:
            shown = f", of which {_FLAGGED} are shown" if len(images) > _FLAGGED else ""
            line = f"{len(images)} {'image' if len(images) == 1 else 'images'}{shown}. {text}"
            tiles = _tiles(found, images[:_FLAGGED], with_split=True)
            yield Section(title, [line], tiles)


def overlay(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"] | None
) -> Image.Image:
    """Returns a small image on which people are marked.

    Args:
      image: RGB.
      mask: Grey levels, above 127 for a person; None marks nothing.
    """
    scale = min(_TILE[0] / image.shape[1], _TILE[1] / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    pixels = cv2.resize(image, size, interpolation=method).astype(np.float32)
    if mask is None:
        return Image.fromarray(pixels.astype(np.uint8))
    shares = cv2.resize((mask > 127).astype(np.float32), size, interpolation=method)[..., None]
    grey = pixels.mean(-1, keepdims=True)
    background = 0.55 * (0.5 * pixels + 0.5 * grey) + 45
    marked = 0.62 * pixels + 0.38 * _PERSON
    mixed = np.ascontiguousarray(shares * marked + (1 - shares) * background)
    inside = np.ascontiguousarray((shares[..., 0] > 0.5).astype(np.uint8))
    outline, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mixed, outline, -1, (255.0, 255.0, 255.0), 1, cv2.LINE_AA)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _duplicates(found: DataCheck) -> Iterator[str]:
    """Yields lines about images with equal pixels."""
    if not found.duplicates:
        yield "no two images are equal"
    if within := found.within:
        groups = "1 group" if len(within) == 1 else f"{len(within)} groups"
        yield f"duplicates: {groups} of equal images within a split"
        yield from (f"  {_names(group)}" for group in within[:_FLAGGED])
    if found.across:
        firsts = [group[0] for group in found.across]
        yield (
            f"warning: {len(firsts)} images are in training and in validation, which makes the "
            f"validation scores too high: {_names(firsts)}"
        )


def _tiles(
    found: DataCheck, images: Sequence[CheckedImage], *, with_split: bool = False
) -> list[Tile]:
    return [
        Tile(
            overlay(*found.splits[image.split].example(image)),
            printable(f"{image.split}/{image.name}" if with_split else image.name),
            f"{image.size[1]} x {image.size[0]}"
            + ("" if image.person is None else f" · {image.person:.1%} person"),
        )
        for image in images
    ]


def _headlines(found: DataCheck) -> Iterator[tuple[str, str, str]]:
    """Yields name, value and remark of the most important numbers."""
    for key, split in found.splits.items():
        left = sum(map(len, split.omissions.values()))
        remark = "; ".join(
            [f"{left} left out"] * bool(left)
            + [f"{len(split.problems)} with problems"] * bool(split.problems)
        )
        yield f"images in data.{key}", str(len(split.usable)), remark
    people = [i.person for s in found.splits.values() for i in s.usable if i.person is not None]
    if people:
        yield "of pixels are a person", f"{np.mean(people):.1%}", "mean over all images"
    doubts = sum(len(split.empty) + len(split.full) for split in found.splits.values())
    if people:
        yield "empty or full masks", str(doubts), ""
    across = f"{len(found.across)} across splits" if found.across else ""
    yield "groups of duplicates", str(len(found.duplicates)), across


def _describe(split: CheckedSplit) -> Iterator[str]:
    """Yields what there is to say of a split."""
    usable = split.usable
    yield f"{len(usable)} images of {split.source.NAME}"
    yield from split.notes
    if usable:
        heights, widths = (sorted(image.size[axis] for image in usable) for axis in (0, 1))
        sizes = len({image.size for image in usable})
        low, high = (f"{widths[end]} x {heights[end]}" for end in (0, -1))
        yield (
            f"width x height from {low} to {high}, {sizes} sizes, median "
            f"{widths[len(widths) // 2]} x {heights[len(heights) // 2]}"
        )
    people = sorted(image.person for image in usable if image.person is not None)
    if people:
        yield (
            f"a person is {np.mean(people):.1%} of the pixels, from {people[0]:.1%} to "
            f"{people[-1]:.1%}, median {people[len(people) // 2]:.1%}"
        )
        for name, images in (("empty", split.empty), ("full", split.full)):
            if images:
                masks = "mask" if len(images) == 1 else "masks"
                yield f"{len(images)} {name} {masks} ({_names(images)})"
    for reason, names in split.omissions.items():
        yield f"left out: {len(names)} {reason} ({printable(', '.join(list(names)[:3]))})"
    for image in split.problems[:_FLAGGED]:
        yield f"problem: {printable(image.problem)}"
    if len(split.problems) > _FLAGGED:
        yield f"and {len(split.problems) - _FLAGGED} other problems"


def _histogram(split: CheckedSplit) -> list[tuple[str, int, float]]:
    people = [image.person for image in split.usable if image.person is not None]
    if not people:
        return []
    counts = np.histogram(people, _BOUNDS)[0].tolist()
    labels = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(_BOUNDS)]
    return [(label, n, n / max(counts)) for label, n in zip(labels, counts, strict=True)]


def _names(images: Sequence[CheckedImage]) -> str:
    names = ", ".join(f"{image.split}/{image.name}" for image in images[:3])
    return printable(names) + (", ..." if len(images) > 3 else "")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"...{text[3 - most :]}"
