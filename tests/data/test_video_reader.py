"""Reading of videos and cameras: what cannot be read is refused in one line."""

from pathlib import Path

import pytest
from refused import refused

from jaxdistill.data.video import import_av, open_source
from jaxdistill.runtime.errors import DataError

pytest.importorskip("av", reason="needs the video extra")
import clips


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.mp4"
    match kind:
        case "text":
            path.write_text("not a video")
        case "empty":
            path.write_bytes(b"")
        case "cut":  # before the table of its frames, which is at the end
            whole = clips.write(tmp_path / "whole.mp4", [clips.bright_disc(0)] * 9)
            path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        case "no frames":
            import av

            with av.open(str(path), "w", format="avi") as container:
                video = container.add_stream("mpeg4", rate=25)
                video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
                container.start_encoding()
                container.mux(video.encode(None))
        case "header":
            whole = clips.write(tmp_path / "whole.mkv", [clips.bright_disc(0)] * 9, sound=None)
            data = whole.read_bytes()
            path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # the first cluster
        case "folder":
            path.mkdir()
        case "sound":
            clips.write(tmp_path / "whole.mp4", [clips.bright_disc(0)] * 3)
            import av

            with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(path), "w") as out:
                stream = out.add_stream_from_template(source.streams.audio[0])
                for packet in source.demux(source.streams.audio[0]):
                    if packet.dts is not None:
                        packet.stream = stream
                        out.mux(packet)
        case "pixels":  # a header without one frame that can be decoded
            whole = clips.write(tmp_path / "whole.mp4", [clips.bright_disc(0)] * 3, sound=None)
            data = bytearray(whole.read_bytes())
            start = data.index(b"mdat") + 4
            data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
            path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("text", "video-unreadable"),
        ("empty", "video-unreadable"),
        ("missing", "video-unreadable"),
        ("folder", "video-unreadable"),
        ("cut", "video-unreadable"),
        ("header", "video-unreadable"),
        ("no frames", "video-without-frames"),
        ("sound", "no-video-stream"),
        ("pixels", "video-without-frames"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, kind: str, code: str) -> None:
    path = damaged(tmp_path, kind)
    with refused(DataError, code, str(path)) as error, open_source(path) as source:
        list(source.frames())
    assert "Errno" not in str(error.value)


def test_a_damaged_title_does_not_hide_the_frames(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "whole.mp4", [clips.bright_disc(0)] * 3)
    content = path.read_bytes()
    assert b"Lavf" in content  # the name of the program that wrote the file
    path.write_bytes(content.replace(b"Lavf", b"\xffavf"))
    with open_source(path) as source:
        assert len(list(source.frames())) == 3


def test_messages_of_decoding_threads_do_not_call_python() -> None:
    """They would wait for the interpreter while it waits for them, as a file is closed."""
    assert import_av().logging.get_level() is None


def test_a_camera_that_is_not_there_is_refused() -> None:
    with refused(DataError, "camera-unavailable"), open_source(63):
        pass
