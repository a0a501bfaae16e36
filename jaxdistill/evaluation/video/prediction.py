"""Masks of a whole video: in order, in constant memory, and resumed after an interruption."""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdistill.data import image_ops
from jaxdistill.data.video import Frame, VideoSource, import_av, reason
from jaxdistill.evaluation.foreground import drawings
from jaxdistill.evaluation.masks import grey_mask
from jaxdistill.evaluation.own_files import check_replaceable
from jaxdistill.evaluation.predictor import Predictor, to_mask
from jaxdistill.evaluation.refinement import REFINEMENTS
from jaxdistill.evaluation.video import parts
from jaxdistill.evaluation.video.smoothing import Smoother
from jaxdistill.evaluation.video.writer import PartWriter, encodings_of, join
from jaxdistill.runtime import files
from jaxdistill.runtime.errors import DataError, OutputError
from jaxdistill.runtime.prefetch import prefetch
from jaxdistill.version import __version__

PART = 300
"""Frames of a part: what is computed again, at most, after an interruption."""
_Batch = list[tuple[Frame, np.ndarray]]
_STAGES = ("reading", "network", "drawing", "encoding")


class VideoReport(NamedTuple):
    """What `predict_video` wrote."""

    frames: int
    """Number of frames in the result."""
    resumed: int
    """How many of them an earlier, interrupted command had drawn."""
    outputs: tuple[Path, ...]
    """The files, or folders of PNG files."""
    seconds: dict[str, float]
    """Time spent on `reading`, `network`, `drawing` and `encoding`."""


def predict_video(
    predictor: Predictor,
    source: VideoSource,
    output: Path,
    *,
    kinds: Sequence[str] = ("masks",),
    threshold: float | None = 0.5,
    smoothing: float = 0.0,
    refine: str | None = None,
    foreground: bool = False,
    video_format: str | None = None,
    batch_size: int = 4,
    limit: int | None = None,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> VideoReport:
    """Draws the masks of a video into one file of each kind.

    Frames keep their times, and the result the audio. Memory depends on the size of the frames
    and on `batch_size`, not on the length. What an interrupted call has finished stays in
    `NAME.parts` beside the results, and the same call goes on from there.

    Args:
      predictor: The model.
      source: The video.
      output: The folder of the results: `output/KIND/NAME.mp4`, for example.
      kinds: See `masks.drawings`.
      threshold: A person is where the probability is above it; None draws the probabilities.
      smoothing: Weight of the frames before where nothing moves; see `Smoother`. 0 is off.
      refine: A name in `refinement.REFINEMENTS`; None interpolates the logits.
      foreground: See `foreground.drawings`.
      video_format: A name in `ENCODINGS`; None: `webm` for cutouts, else `mp4`.
      batch_size: Number of frames that the model processes at a time.
      limit: Largest number of frames, at least 1; None takes all.
      stop: Asked before each frame but the first, in the thread that reads them, whether the video
        ends here; None never ends it.
      progress: Called with the number of frames that were drawn.

    Returns:
      Counts, files and times.

    Raises:
      ConfigError: A kind, format or refinement is unknown (`unknown-drawing`,
        `unknown-video-format`, `unknown-refinement`), a format cannot be transparent
        (`video-without-alpha`), or `smoothing` is not below 1 (`smoothing`).
      DataError: There is no frame (`video-without-frames`), a file is there that `predict` did not
        write (`image-overwritten`), or see `VideoSource.frames`.
      OutputError: A file cannot be written (`prediction-not-written`).
    """
    work = _Work(predictor, source, output, kinds, threshold, refine, foreground, video_format)
    with _written(work.parts):
        return work.run(smoothing, batch_size, limit, stop, progress)


class _Work:
    def __init__(
        self,
        predictor: Predictor,
        source: VideoSource,
        output: Path,
        kinds: Sequence[str],
        threshold: float | None,
        refine: str | None,
        foreground: bool,
        video_format: str | None,
    ) -> None:
        if refine is not None:
            REFINEMENTS[refine]  # refuses an unknown one
        self.predictor, self.source = predictor, source
        self.threshold, self.refine = threshold, refine
        self.kinds, self.draw = list(kinds), drawings(kinds, foreground)
        self.foreground = foreground
        self.encodings = encodings_of(self.draw, video_format)
        stem = source.path.stem if source.path else source.name.replace(" ", "_")
        self.targets = {
            name: output / name / (f"{stem}{encoding.suffix}" if encoding.codec else stem)
            for name, encoding in self.encodings.items()
        }
        for target in self.targets.values():
            for path in _frames(target) if target.is_dir() else [target]:
                check_replaceable(path)
            if source.path and target.exists() and target.samefile(source.path):
                raise DataError(
                    f"{target}: this video would be overwritten; choose another folder, with "
                    f"--output",
                    code="image-overwritten",
                )
        name = source.path.name if source.path else stem
        self.parts = output / f"{name}.parts"
        self.seconds: dict[str, float] = dict.fromkeys(_STAGES, 0.0)

    def run(
        self,
        smoothing: float,
        batch_size: int,
        limit: int | None,
        stop: Callable[[], bool] | None,
        progress: Callable[[int], object],
    ) -> VideoReport:
        smoother = Smoother(smoothing) if smoothing else None
        finished = self._finished({"smoothing": smoothing, "limit": limit})
        resumed = len(finished) * PART
        if finished and smoother:
            smoother.restore(parts.read_state(finished[-1]))
        progress(resumed)
        count = resumed
        with closing(prefetch(self._read(resumed, limit, batch_size, stop), depth=2)) as batches:
            batch = self._next(batches)
            while batch is not None:
                unfinished = self.parts / f"{len(finished):05}.unfinished"
                unfinished.mkdir()
                with self._writers(unfinished) as writers:
                    drawn = 0
                    while batch is not None and drawn < PART:
                        self._draw(batch, batch_size, smoother, writers, count + drawn)
                        drawn += len(batch)
                        progress(len(batch))
                        batch = self._next(batches)
                state = smoother.state() if smoother else {}
                finished.append(parts.finish(unfinished, drawn, state))
                count += drawn
        if not finished:
            shutil.rmtree(self.parts)
            raise DataError(
                f"{self.source.name}: it gives no frame; expected at least one",
                code="video-without-frames",
            )
        with self._timed("encoding"):
            self._join(finished)
            self._remove_frames_after(count)
        return VideoReport(count, resumed, tuple(self.targets.values()), self.seconds)

    def _read(
        self,
        skipped: int,
        limit: int | None,
        batch_size: int,
        stop: Callable[[], bool] | None,
    ) -> Generator[_Batch]:
        """Yields batches of frames, each with the image at the model's size; none spans parts."""
        batch: _Batch = []
        for index, frame in enumerate(self.source.frames()):
            if index == limit or (stop is not None and index and stop()):
                break
            if index < skipped:
                continue
            batch.append((frame, image_ops.resize_image(frame.image, self.predictor.size)))
            if len(batch) == batch_size or (index + 1) % PART == 0:
                yield batch
                batch = []
        if batch:
            yield batch

    def _next(self, batches: Iterator[_Batch]) -> _Batch | None:
        with self._timed("reading"):
            return next(batches, None)

    @contextmanager
    def _writers(self, folder: Path) -> Iterator[dict[str, PartWriter]]:
        """Yields a writer for each kind, and finishes their files."""
        source = self.source
        writers = {
            name: PartWriter(
                self._part(folder, name), encoding, source.size, source.rate, source.time_base
            )
            for name, encoding in self.encodings.items()
        }
        yield writers
        with self._timed("encoding"):
            for writer in writers.values():
                writer.close()

    def _draw(
        self,
        batch: _Batch,
        batch_size: int,
        smoother: Smoother | None,
        writers: Mapping[str, PartWriter],
        first: int,
    ) -> None:
        """Draws and encodes a batch, whose first frame has the number `first`."""
        with self._timed("network"):
            logits = self.predictor.padded_logits([small for _, small in batch], batch_size)
        for index, ((frame, small), values) in enumerate(zip(batch, logits, strict=True), first):
            with self._timed("drawing"):
                steady = smoother(values, small) if smoother else values
                mask = grey_mask(to_mask(steady, frame.image, self.threshold, self.refine))
                drawn = {
                    name: np.asarray(draw(frame.image, mask)) for name, draw in self.draw.items()
                }
            with self._timed("encoding"):
                for name, image in drawn.items():
                    writers[name].add(image, frame.pts, index)

    def _finished(self, settings: dict[str, object]) -> list[Path]:
        """Returns the finished parts of an earlier call with the same model and settings."""
        about = json.dumps({**self._about(), **settings}, sort_keys=True)
        note = self.parts / "settings.json"
        if not note.is_file() or note.read_text() != about:
            shutil.rmtree(self.parts, ignore_errors=True)  # of other settings
            self.parts.mkdir(parents=True)
            files.write_atomic(note, about)
        found: list[Path] = []
        while (part := self.parts / f"{len(found):05}").is_dir():
            videos = [self._part(part, name) for name, each in self.encodings.items() if each.codec]
            if parts.readable_frames(part, videos) < PART:  # the last one, or damaged
                break
            found.append(part)
        for part in self.parts.glob("[0-9]*"):  # of this number and above, also unfinished
            if part.stem >= f"{len(found):05}":
                shutil.rmtree(part)
        return found

    def _about(self) -> dict[str, object]:
        path = self.source.path
        state = path.stat() if path else None
        return {
            "version": __version__,
            "model": self.predictor.fingerprint,
            "size": list(self.predictor.size),
            "threshold": self.threshold,
            "refine": self.refine,
            "foreground": self.foreground,
            "kinds": self.kinds,
            "encodings": [encoding.codec for encoding in self.encodings.values()],
            "source": [state.st_size, state.st_mtime_ns] if state else time.time(),
        }

    def _part(self, folder: Path, name: str) -> Path:
        """Returns the file of a part; PNG files are written to their folder at once."""
        encoding = self.encodings[name]
        return folder / f"{name}{encoding.suffix}" if encoding.codec else self.targets[name]

    def _join(self, finished: Sequence[Path]) -> None:
        for name, target in self.targets.items():
            encoding = self.encodings[name]
            if not encoding.codec:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            whole = self.parts / f"whole{encoding.suffix}"
            join([self._part(part, name) for part in finished], whole, self.source, encoding)
            whole.replace(target)
        shutil.rmtree(self.parts)

    def _remove_frames_after(self, count: int) -> None:
        """Removes PNG files that an earlier call for a longer video wrote into the folder."""
        for name, target in self.targets.items():
            if not self.encodings[name].codec:
                for path in _frames(target):
                    if int(path.stem) >= count:
                        path.unlink()

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start


def _frames(folder: Path) -> list[Path]:
    """Returns the files that are named like the frames of a video."""
    return [path for path in folder.glob("[0-9]*.png") if path.stem.isdigit()]


def check_video_options(drawn: Iterable[str], smoothing: float, video_format: str | None) -> None:
    """Checks options of `predict_video` before a video is opened.

    Args:
      drawn: Names of drawings.
      smoothing: See `predict_video`.
      video_format: See `predict_video`.

    Raises:
      ConfigError: See `predict_video`.
    """
    Smoother(smoothing)
    encodings_of(drawn, video_format)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Turns a failure to write into one line."""
    try:
        yield
    except (OSError, import_av().error.FFmpegError) as error:
        raise OutputError(
            f"{folder}: cannot write the video: {reason(error)}; what is finished stays there, and "
            f"the same command goes on",
            code="prediction-not-written",
        ) from None
