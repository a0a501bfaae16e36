"""Video files, written in parts that are joined at the end, with the audio of the source.

A part that is finished stays valid whatever happens later, so that an interrupted command goes on
after the last one. Joining copies the encoded frames; nothing is encoded twice.
"""

import heapq
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdistill.config import Size
from jaxdistill.data.video import VideoSource, import_av
from jaxdistill.evaluation.own_files import PNG_NOTE, VIDEO_NOTE
from jaxdistill.runtime.errors import ConfigError

log = logging.getLogger(__name__)


class Encoding(NamedTuple):
    """How frames become a file."""

    suffix: str
    """Ending of the file; for a folder of PNG files, of each frame's."""
    codec: str
    """FFmpeg's name of the encoder; empty for a folder of PNG files."""
    pixels: str
    """FFmpeg's name of the pixel format."""
    options: dict[str, str]
    """Options of the encoder."""
    audio: str = "aac"
    """Encoder of audio that the file cannot hold as it is."""
    copied_audio: tuple[str, ...] = ()
    """Codecs of audio that is copied."""
    alpha: bool = False
    """Whether the frames may be transparent."""


# Without B-frames the packets of joined parts are in order. Quality is near that of the source.
ENCODINGS = {
    "mp4": Encoding(
        ".mp4", "libx264", "yuv420p", {"crf": "18", "preset": "veryfast", "bf": "0"},
        "aac", ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"),
    ),
    "webm": Encoding(
        ".webm", "libvpx-vp9", "yuva420p",
        {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1",
         "auto-alt-ref": "0"},
        "libopus", ("opus", "vorbis"), alpha=True,
    ),
    "mov": Encoding(
        ".mov", "prores_ks", "yuva444p10le", {"profile": "4444", "qscale": "9"},
        "aac", ("aac", "mp3", "ac3", "alac", "pcm_s16le"), alpha=True,
    ),
    "png": Encoding(".png", "", "", {}, alpha=True),
}  # fmt: skip
"""Encodings by the name of the format; `png` is a folder of PNG files."""


def encodings_of(drawn: Iterable[str], video_format: str | None) -> dict[str, Encoding]:
    """Returns the encoding of each drawing.

    Args:
      drawn: Names that `masks.drawings` returns.
      video_format: A name in `ENCODINGS`; None: `webm` for cutouts, else `mp4`.

    Raises:
      ConfigError: There is no such format (`unknown-video-format`), or it cannot be transparent
        (`video-without-alpha`).
    """
    return {name: _encoding(name, video_format) for name in drawn}


def _encoding(drawing: str, video_format: str | None) -> Encoding:
    name = video_format or ("webm" if drawing == "cutouts" else "mp4")
    if name not in ENCODINGS:
        raise ConfigError(
            f"{name}: there is no such video format; expected one of {', '.join(ENCODINGS)}",
            code="unknown-video-format",
        )
    if drawing == "cutouts" and not ENCODINGS[name].alpha:
        raise ConfigError(
            f"{name} cannot be transparent, which cutouts are; choose webm, mov or png",
            code="video-without-alpha",
        )
    return ENCODINGS[name]


class PartWriter:
    """Encodes the frames of one part.

    Args:
      path: The file; for `png`, the folder.
      encoding: See `ENCODINGS`.
      size: Height and width of the frames. H.264 needs even ones: the last row or column of an odd
        one is repeated.
      rate: Frames per second, on average.
      time_base: Seconds of one unit of the frames' times.
    """

    def __init__(
        self, path: Path, encoding: Encoding, size: Size, rate: Fraction, time_base: Fraction
    ) -> None:
        self._path, self._encoding, self._time_base = path, encoding, time_base
        self._padding = [(0, 0), (0, 0)]
        if not encoding.codec:
            path.mkdir(parents=True, exist_ok=True)
            return
        self._av = import_av()
        self._container = self._av.open(str(path), "w")
        height, width = size
        if "420" in encoding.pixels:
            self._padding = [(0, height % 2), (0, width % 2)]
        self._stream = self._container.add_stream(
            encoding.codec, rate=rate.limit_denominator(65535), options=encoding.options
        )
        self._stream.height = height + self._padding[0][1]
        self._stream.width = width + self._padding[1][1]
        self._stream.pix_fmt = encoding.pixels
        self._stream.time_base = self._stream.codec_context.time_base = time_base

    def add(self, image: UInt8[np.ndarray, "h w ..."], pts: int, index: int) -> None:
        """Encodes a frame.

        Args:
          image: Grey levels (H, W), RGB (H, W, 3), or RGBA (H, W, 4).
          pts: When it is shown, in units of the time base.
          index: Number of the frame in the video, from 0.
        """
        if not self._encoding.codec:
            from PIL import Image

            path = self._path / f"{index:06}.png"
            Image.fromarray(image).save(path, compress_level=1, pnginfo=PNG_NOTE)
            return
        pixels = {2: "gray", 3: "rgb24"}.get(image.ndim if image.ndim == 2 else image.shape[2])
        if any(after for _, after in self._padding):
            image = np.pad(image, [*self._padding, (0, 0)][: image.ndim], mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), pixels or "rgba")
        frame.pts, frame.time_base = pts, self._time_base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file."""
        if self._encoding.codec:
            self._container.mux(self._stream.encode(None))
            self._container.close()


def join(parts: Sequence[Path], target: Path, source: VideoSource, encoding: Encoding) -> None:
    """Writes one file from parts, with the audio of the source as far as the frames go.

    Args:
      parts: The parts, in order; their frames' times are those of the whole.
      target: The file.
      source: Where the audio comes from, if it has any.
      encoding: That of the parts.
    """
    av = import_av()
    with av.open(str(target), "w") as written, av.open(str(parts[0])) as first:
        written.metadata.update(VIDEO_NOTE)
        video = written.add_stream_from_template(first.streams.video[0])
        streams = [_video_packets(av, parts, video)]
        audio = av.open(str(source.path), metadata_errors="replace") if source.path else None
        found = audio.streams.audio[0] if audio and audio.streams.audio else None
        if found and found.codec_context is None:
            log.warning("%s: its audio cannot be decoded, and is left out", source.name)
        elif found:
            sound = _audio_packets(av, audio, written, source, encoding)
            end = _end(av, parts[-1])
            streams.append(itertools.takewhile(lambda timed: timed[0] < end, sound))
        for _, _, packet in heapq.merge(*streams, key=lambda timed: timed[:2]):
            written.mux_one(packet)
        if audio:
            audio.close()


_Timed = tuple[float, int, Any]
"""Seconds at which a packet is decoded, a number that makes it unique, and the packet."""


def _video_packets(av: Any, parts: Sequence[Path], video: Any) -> Iterator[_Timed]:
    count = itertools.count(0, 2)
    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.dts is None:  # the end of the part
                    continue
                seconds = float(packet.dts * packet.time_base)
                packet.stream = video
                yield seconds, next(count), packet


def _end(av: Any, part: Path) -> float:
    """Returns when the last frame of a part ends, in seconds."""
    with av.open(str(part)) as container:
        packets = container.demux(container.streams.video[0])
        return max(float((p.pts + p.duration) * p.time_base) for p in packets if p.pts is not None)


def _audio_packets(
    av: Any, container: Any, written: Any, source: VideoSource, encoding: Encoding
) -> Iterator[_Timed]:
    """Returns the packets of the audio, their times counted from the first frame."""
    found = container.streams.audio[0]
    codec = found.codec_context.name.removesuffix("float")  # the decoder mp3float is of mp3
    if codec in encoding.copied_audio:
        stream = written.add_stream_from_template(found)
        packets = _copied(av, container, found, stream)
    else:
        stream = written.add_stream(encoding.audio, rate=48000)
        packets = _encoded(av, container, found, stream)
    return _from_start(packets, source.start)


def _from_start(packets: Iterator[Any], start: float) -> Iterator[_Timed]:
    for number in itertools.count(1, 2):
        if (packet := next(packets, None)) is None:
            return
        shift = round(start / packet.time_base)
        if packet.pts is None or packet.pts < shift:
            continue  # before the first frame
        packet.pts -= shift
        packet.dts = packet.pts
        yield float(packet.pts * packet.time_base), number, packet


def _copied(av: Any, container: Any, found: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(found)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the source is cut off here
            return
        if packet is None:
            return
        if packet.dts is not None:
            packet.stream = stream
            yield packet


def _encoded(av: Any, container: Any, found: Any, stream: Any) -> Iterator[Any]:
    context = stream.codec_context
    resampler = av.AudioResampler(
        format=context.format.name if context.format else "fltp", layout="stereo", rate=48000
    )
    decoded = container.decode(found)
    while True:
        try:
            frame = next(decoded, None)
        except av.error.FFmpegError:
            frame = None
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
        if frame is None:
            yield from stream.encode(None)
            return
