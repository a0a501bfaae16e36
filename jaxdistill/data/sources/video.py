"""Frames of videos as images without masks."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxdistill.data import image_files, video
from jaxdistill.data.sources.base import Source, SourceExample
from jaxdistill.data.sources.digests import fingerprint
from jaxdistill.data.sources.images import printable_name
from jaxdistill.data.sources.layout import Found, Root
from jaxdistill.runtime.errors import DataError

_QUALITY = 95  # of the JPEG files that frames are stored as
_BYTES = 3 * 2**20
_FOLDERS = ("videos", "video", "clips")


class Entry(NamedTuple):
    """A frame."""

    id: int
    """Place in the order, counted from 1."""
    name: str
    """Path of the video relative to the folder, and the number of the frame."""
    video: Path
    pts: int
    """When it is shown, on the clock of the stream."""


@dataclass(frozen=True)
class Video(Source[Entry]):
    """Every n-th frame (`data.frame_step`) of all videos in a folder and below, upright."""

    NAME = "video"
    HAS_MASKS = False
    LAYOUT = "a folder of videos below data.root"

    @classmethod
    def recognise(cls, root: Root) -> Found | None:
        """Finds folders of videos; see the base class."""
        return root.without_masks("videos", video.SUFFIXES, _FOLDERS)

    def list_images(self) -> Sequence[Entry]:
        """Returns the frames; see the base class."""
        found, unreadable = self._frames
        if not found:
            raise DataError(
                f"{self.images}: no video that can be read is there, {len(unreadable)} cannot; "
                f"expected files that end in {', '.join(video.SUFFIXES)}",
                code="no-images",
            )
        return found

    def omissions(self) -> Mapping[str, Sequence[str]]:
        """Returns the videos that cannot be read; see the base class."""
        _, unreadable = self._frames
        return {"videos that cannot be read": unreadable} if unreadable else {}

    def fingerprint(self) -> str:
        """Returns a fingerprint of the videos, and of which frames are taken."""
        step = str(self.settings.frame_step)
        return fingerprint(self._videos, self.images.resolve(), self.digests, step)

    def file(self, entry: Entry) -> Path:
        """Returns the video; see the base class."""
        return entry.video

    def name(self, entry: Entry) -> str:
        """Returns the name of the frame; see the base class."""
        return entry.name

    def size(self, entry: Entry) -> int:
        """Returns what a frame of 8 megapixels takes, whatever the video; see the base class."""
        return _BYTES

    def load(self, entry: Entry) -> SourceExample:
        """Decodes a frame; see the base class."""
        image = video.frame_at(entry.video, entry.pts)
        if image is None:
            return SourceExample(entry.id, entry.name, problem="the frame cannot be decoded")
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "JPEG", quality=_QUALITY)
        return SourceExample(entry.id, entry.name, encoded.getvalue(), upright=True)

    @cached_property
    def _videos(self) -> list[Path]:
        skipped = [folder.resolve() for folder in self.excluded]
        return [
            path
            for path in image_files.files_below(self.images.resolve(), skipped)
            if path.name.lower().endswith(video.SUFFIXES)
        ]

    @cached_property
    def _frames(self) -> tuple[list[Entry], list[str]]:
        """The frames of all videos, and the names of videos that cannot be read."""
        frames: list[Entry] = []
        unreadable: list[str] = []
        for path in self._videos:
            name = printable_name(path, self.images.resolve())
            try:
                times = video.frame_times(path)
            except DataError as error:
                if error.code == "unreadable-file":  # the video may be intact
                    raise
                unreadable.append(name)
                continue
            for number in range(0, len(times), self.settings.frame_step):
                frames.append(Entry(len(frames) + 1, f"{name}/{number:06}", path, times[number]))
        return frames, unreadable
