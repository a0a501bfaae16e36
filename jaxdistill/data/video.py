"""Frames of video files (by PyAV) and of cameras (by OpenCV), upright and in RGB."""

import itertools
import logging
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
from jaxdistill.data.decode import MAX_PIXELS
from jaxdistill.data.image_ops import RgbImage
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import ConfigError, DataError, first_line
from jaxdistill.runtime.paths import expanded

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".flv"),
)
"""Suffixes of files that are read as videos."""
MILLISECONDS = Fraction(1, 1000)
"""Time base of a camera's frames."""
_CHUNK = 1 << 20  # bytes


class Frame(NamedTuple):
    """A frame of a video."""

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
    start: float = 0.0
    """Seconds of the file's clock at which the first frame is shown."""

    @abstractmethod
    def frames(self) -> Generator[Frame]:
        """Yields the frames in the order in which they are shown.

        A file that is damaged or cut off ends there, with a warning.
        """


@contextmanager
def open_source(source: str | Path | int) -> Iterator[VideoSource]:
    """Opens a video file or a camera for the `with` block.

    Args:
      source: The path of a video, or the number of a camera, from 0.

    Raises:
      ConfigError: The package PyAV is not installed (`extra-missing`).
      DataError: The file is not a video (`video-unreadable`), has no video stream
        (`no-video-stream`), not one frame can be decoded (`video-without-frames`), the file may be
        intact, but cannot be read at the moment (`unreadable-file`), or there is no such camera
        (`camera-unavailable`).
    """
    if isinstance(source, int):
        camera = _Camera(source)
        try:
            yield camera
        finally:
            camera.release()
        return
    path = expanded(source)
    with _container(path) as container:
        yield _File(path, container)


def _container(path: Path) -> Any:
    """Returns an open container of PyAV, whose `with` block closes it."""
    av = import_av()
    try:
        # A damaged byte of a title must not hide the frames.
        return av.open(str(path), metadata_errors="replace")
    except (OSError, av.error.FFmpegError) as error:
        _check_intact(path)
        raise DataError(
            f"{path}: cannot be read as a video: {reason(error)}", code="video-unreadable"
        ) from None


def _check_intact(path: Path) -> None:
    """Raises an error of its own where the operating system cannot read a file at the moment.

    FFmpeg's own error numbers do not tell: it gives EIO and EPERM for damaged files as well.
    """
    try:
        with path.open("rb") as file:
            while file.read(_CHUNK):
                pass
    except OSError as error:
        if error.errno not in files.STRUCTURE_ERRORS:
            raise DataError(
                f"{path}: cannot be read: {reason(error)}", code="unreadable-file"
            ) from None


_EARLIER = (0, 1, 10, None)
"""Seconds before a frame to which is sought; None: the file is decoded from its beginning. Most
formats take the key frame before that time, transport and program streams often one after it."""


def frame_times(path: Path) -> list[int]:
    """Returns when the frames of a video file are shown, in order, without decoding them.

    Args:
      path: The file.

    Returns:
      Times in units of the stream's time base, as far as the file can be read.

    Raises:
      ConfigError: The package PyAV is not installed (`extra-missing`).
      DataError: See `open_source`.
    """
    av = import_av()
    times: set[int] = set()
    with _container(path) as container:
        try:
            for packet in container.demux(_video_stream(path, container)):
                if packet.size and packet.pts is not None:
                    times.add(packet.pts)
        except av.error.FFmpegError as error:
            _check_intact(path)
            log.warning("%s: the rest of it cannot be read: %s", path, reason(error))
    return sorted(times)


def frame_at(path: Path, pts: int) -> RgbImage | None:
    """Returns a frame of a video file, upright; None if it cannot be decoded.

    Args:
      path: The file.
      pts: When it is shown, from `frame_times`.

    Raises:
      DataError: See `frame_times`.
    """
    av = import_av()
    for seconds in _EARLIER:
        with _container(path) as container:
            stream = _video_stream(path, container)
            if seconds is not None:
                try:
                    container.seek(pts - int(seconds / stream.time_base), stream=stream)
                except av.error.FFmpegError:  # before the beginning
                    continue
            try:
                first, found = _first_from(container.decode(stream), pts)
            except av.error.FFmpegError as error:
                _check_intact(path)
                log.warning("%s: a frame cannot be decoded: %s", path, reason(error))
                return None
            if seconds is None or (first is not None and first <= pts):
                return None if found is None else _upright(found)
    return None


def _first_from(frames: Iterator[Any], pts: int) -> tuple[int | None, Any]:
    """Returns when the first of some frames is shown, and the first one at a time or after it."""
    first = None
    for frame in frames:
        if frame.pts is not None:
            first = frame.pts if first is None else first
            if frame.pts >= pts:
                return first, frame
    return first, None


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
    # Its logging stays off, as it is by default: a decoding thread that logs waits for the
    # interpreter, and the interpreter for the thread, as a damaged file is closed.
    return av


class _File(VideoSource):
    path: Path

    def __init__(self, path: Path, container: Any) -> None:
        self.path, self.name = path, str(path)
        stream = _video_stream(path, container)
        self.time_base = stream.time_base or MILLISECONDS
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self.count = stream.frames or self._estimated_count(container.duration)
        first = self._next_frame(container.decode(stream))
        if first is None:
            raise DataError(
                f"{path}: not one of its frames can be decoded", code="video-without-frames"
            )
        self.start = float((first.pts or 0) * self.time_base)
        self.size = _upright(first).shape[:2]

    def frames(self) -> Generator[Frame]:
        # Opened anew: not every format can be rewound.
        with _container(self.path) as container:
            decoded = container.decode(_video_stream(self.path, container))
            first = previous = None
            for index in itertools.count():
                if (frame := self._next_frame(decoded)) is None:
                    return
                pts = frame.pts
                if pts is None:  # some old formats keep no times
                    pts = round(index / self.rate / self.time_base)
                first = pts if first is None else first
                if previous is not None and pts <= previous:
                    continue  # never shown, or at the same time as another one
                previous = pts
                image = _upright(frame)
                if image.shape[:2] != self.size:  # the size may change within a stream
                    image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
                yield Frame(image, pts - first)

    def _next_frame(self, decoded: Iterator[Any]) -> Any:
        """Returns the next decodable frame; None at the end, or where the file is damaged."""
        try:
            return next(decoded, None)
        except import_av().error.FFmpegError as error:
            log.warning("%s: the rest of it cannot be decoded: %s", self.name, reason(error))
            return None

    def _estimated_count(self, microseconds: int | None) -> int | None:
        return round(microseconds / 1e6 * self.rate) if microseconds else None


def _video_stream(path: Path | None, container: Any) -> Any:
    """Returns the first video stream of a file."""
    if not container.streams.video:
        raise DataError(f"{path}: it has no video stream; expected a video", code="no-video-stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    codec = stream.codec_context
    # A damaged header must not exhaust the memory.
    if codec is None or not 0 < codec.width * codec.height <= MAX_PIXELS:
        shape = "no size" if codec is None else f"{codec.width} x {codec.height}"
        raise DataError(
            f"{path}: cannot be read as a video: its frames have {shape}", code="video-unreadable"
        )
    return stream


class _Camera(VideoSource):
    def __init__(self, number: int) -> None:
        self.name, self.count, self.time_base = f"camera {number}", None, MILLISECONDS
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture(number)
        image = self._read()
        if image is None:
            self.release()
            raise DataError(
                f"camera {number}: it is not there, is in use, or gives no frame",
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


def reason(error: Exception) -> str:
    """Returns the message of an exception of PyAV, without its number and path.

    Args:
      error: The exception.
    """
    return getattr(error, "strerror", None) or first_line(error)
