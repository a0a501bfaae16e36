"""Frames of video files (by PyAV) and of cameras (by OpenCV), upright and in RGB."""

import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from jaxdistill.config import Size
from jaxdistill.evaluation.masks import RgbImage
from jaxdistill.runtime.errors import ConfigError, DataError, first_line

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".flv"),
)
"""Suffixes of files that are read as videos."""
MAX_PIXELS = 2**27
"""Largest number of pixels of a frame: a damaged header must not exhaust the memory."""
MILLISECONDS = Fraction(1, 1000)
"""Time base of a camera's frames."""


class Frame(NamedTuple):
    """A picture of a video."""

    image: RgbImage
    """RGB, upright, of shape (H, W, 3) and type uint8."""
    pts: int
    """When it is shown, in units of the source's time base, counted from the first frame."""


class VideoSource(ABC):
    """A sequence of frames; see `open_source`."""

    name: str
    """What it is called in messages."""
    size: Size
    """Height and width of the upright frames."""
    time_base: Fraction
    """Seconds of one unit of `Frame.pts`."""
    rate: Fraction
    """Frames per second, on average."""
    count: int | None
    """Number of frames, as far as the file says; None if unknown, or without an end."""
    path: Path | None = None
    """The file; None for a camera."""

    @abstractmethod
    def frames(self) -> Generator[Frame]:
        """Yields the frames in the order in which they are shown.

        Raises:
          DataError: Not one frame can be decoded (`video-without-frames`). A file that is damaged
            or cut off later ends there, with a warning.
        """


@contextmanager
def open_source(source: str | Path | int) -> Iterator[VideoSource]:
    """Opens a video file or a camera for the `with` block.

    Args:
      source: The path of a video, or the number of a camera, from 0.

    Raises:
      ConfigError: The package PyAV is not installed (`extra-missing`).
      DataError: The file is not a video (`video-unreadable`), has no pictures
        (`video-without-pictures`), or there is no such camera (`camera-unavailable`).
    """
    if isinstance(source, int):
        camera = _Camera(source)
        try:
            yield camera
        finally:
            camera.release()
        return
    path = Path(source).expanduser()
    av = import_av()
    try:
        container = av.open(str(path))
    except (OSError, av.error.FFmpegError) as error:
        raise DataError(
            f"{path}: cannot be read as a video: {_reason(error)}", code="video-unreadable"
        ) from None
    with container:
        yield _File(path, container)


def camera_number(argument: str) -> int | None:
    """Returns the number of the camera that a command-line argument names, such as `0`.

    Args:
      argument: An argument; a file or folder of that name comes first.
    """
    if re.fullmatch(r"\d{1,3}", argument) and not Path(argument).exists():
        return int(argument)
    return None


def import_av() -> "ModuleType":
    """Returns the module of PyAV.

    Raises:
      ConfigError: It is not installed (`extra-missing`).
    """
    try:
        import av
    except ImportError:
        raise ConfigError(
            "videos need PyAV: pip install 'jaxdistill[video]'", code="extra-missing"
        ) from None
    av.logging.set_level(av.logging.PANIC)  # FFmpeg's own lines would interrupt the progress bar
    return av


class _File(VideoSource):
    def __init__(self, path: Path, container: Any) -> None:
        self.path, self.name, self._container = path, str(path), container
        if not container.streams.video:
            raise DataError(
                f"{path}: there are no pictures in it; expected a video",
                code="video-without-pictures",
            )
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        codec = self._stream.codec_context
        if codec is None or not 0 < codec.width * codec.height <= MAX_PIXELS:
            shape = "no size" if codec is None else f"{codec.width} x {codec.height}"
            raise DataError(
                f"{path}: cannot be read as a video: its pictures have {shape}",
                code="video-unreadable",
            )
        self.time_base = self._stream.time_base or MILLISECONDS
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.count = self._stream.frames or self._estimated_count()
        self._first = self._next_frame(container.decode(self._stream))
        if self._first is None:
            raise DataError(
                f"{path}: not one of its pictures can be decoded", code="video-without-frames"
            )
        self.size = _upright(self._first).shape[:2]

    @property
    def start(self) -> float:
        """Seconds of the file's clock at which the first frame is shown."""
        assert self._first is not None
        return float((self._first.pts or 0) * self.time_base)

    def frames(self) -> Generator[Frame]:
        self._container.seek(0)
        decoded = self._container.decode(self._stream)
        first = previous = None
        index = 0
        while (frame := self._next_frame(decoded)) is not None:
            pts = frame.pts
            if pts is None:  # some old formats keep no times
                pts = round(index / self.rate / self.time_base)
            first = pts if first is None else first
            index += 1
            if previous is not None and pts <= previous:
                continue  # shown never, or at the same time as another one
            previous = pts
            image = _upright(frame)
            if image.shape[:2] != self.size:  # the size may change within a stream
                image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
            yield Frame(image, pts - first)

    def _next_frame(self, decoded: Iterator[Any]) -> Any:
        """Returns the next decodable frame; None at the end, or where the file is damaged."""
        av = import_av()
        try:
            return next(decoded, None)
        except av.error.FFmpegError as error:
            log.warning("%s: the rest of it cannot be decoded: %s", self.name, _reason(error))
            return None

    def _estimated_count(self) -> int | None:
        duration = self._container.duration  # in microseconds
        return round(duration / 1e6 * self.rate) if duration else None


class _Camera(VideoSource):
    def __init__(self, number: int) -> None:
        self.name, self.count, self.time_base = f"camera {number}", None, MILLISECONDS
        os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
        if hasattr(cv2, "setLogLevel"):
            cv2.setLogLevel(0)
        self._capture = cv2.VideoCapture(number)
        image = self._read()
        if image is None:
            self.release()
            raise DataError(
                f"camera {number}: it is not there, is in use, or gives no picture",
                code="camera-unavailable",
            )
        self.size = image.shape[:2]
        self.rate = Fraction(self._capture.get(cv2.CAP_PROP_FPS) or 30).limit_denominator(1001)

    def frames(self) -> Generator[Frame]:
        start = time.monotonic()
        previous = -1
        while (image := self._read()) is not None:
            pts = max(previous + 1, int((time.monotonic() - start) * 1000))
            previous = pts
            yield Frame(image, pts)

    def release(self) -> None:
        self._capture.release()

    def _read(self) -> RgbImage | None:
        found, image = self._capture.read()
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if found else None


def _upright(frame: Any) -> RgbImage:
    """Returns the pixels of a frame, turned as the file's display matrix says."""
    image: RgbImage = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counterclockwise, as numpy turns
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
