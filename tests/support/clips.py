"""Small videos, written with PyAV, and a network for them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

TICK = Fraction(1, 1000)


class Bright:
    """A network whose logit is positive where the image is bright."""

    description, size, fingerprint = "bright", (48, 64), "0" * 64

    def logits(self, images: np.ndarray) -> np.ndarray:
        return (images.astype(np.float32).mean(-1, keepdims=True) - 128) / 16


def bright_disc(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A bright disc on a dark ground, which moves by two pixels from frame to frame."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    disc = (rows - size[0] // 2) ** 2 + (columns - 12 - 2 * index) ** 2 < 9**2
    image = np.full((*size, 3), (30, 40, 50), np.uint8)
    image[disc] = (250, 240, 230)
    return image


def write(
    path: Path,
    images: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    *,
    sound: str | None = "aac",
    rotation: int = 0,
    codec: str = "libx264",
) -> Path:
    """Writes images as a video.

    Args:
      path: The file.
      images: RGB images.
      times: When each is shown, in milliseconds; 25 frames per second by default.
      sound: Codec of a tone beside them.
      rotation: Degrees, counterclockwise, by which a player turns the frames.
      codec: Codec of the pictures.
    """
    import av

    times = times or [40 * index for index in range(len(images))]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={"crf": "4"})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        video.time_base = video.codec_context.time_base = TICK
        if rotation:
            video.set_display_rotation(rotation)
        audio = container.add_stream(sound, rate=48000) if sound else None
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_image(Image.fromarray(image))
            frame.pts, frame.time_base = time, TICK
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            seconds = (times[-1] + 40) / 1000
            phase = 2 * np.pi * 440 * np.arange(round(48000 * seconds)) / 48000
            tone = av.AudioFrame.from_ndarray(
                0.2 * np.sin(phase)[None].astype(np.float32), format="fltp", layout="mono"
            )
            tone.rate = 48000
            container.mux(audio.encode(tone))
            container.mux(audio.encode(None))
    return path


def read(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Returns the frames of a video as RGB, and their times in milliseconds."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [
        round(frame.time * 1000) for frame in frames
    ]


def sound_packets(path: Path) -> list[bytes]:
    """Returns the encoded sound of a video."""
    import av

    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def alpha(path: Path) -> list[np.ndarray]:
    """Returns the transparency of a WebM file, which FFmpeg's own decoder leaves out."""
    import av

    with av.open(str(path)) as container:
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        packets = container.demux(container.streams.video[0])
        frames = [frame for packet in packets for frame in decoder.decode(packet)]
    return [frame.to_ndarray(format="rgba")[..., 3] for frame in frames]


def masks(path: Path) -> list[np.ndarray]:
    """Returns what is bright in the frames of a video."""
    return [frame[..., 0] > 127 for frame in read(path)[0]]
