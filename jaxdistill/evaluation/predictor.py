"""The predictor: masks of images of any size, by a student or any other segmentation network."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Bool, Float

from jaxdistill import config
from jaxdistill.config import ChannelOrder, Layout, OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.data.image_ops import RgbImage
from jaxdistill.evaluation.backend import Backend, Images, Logits, ModelOptions
from jaxdistill.evaluation.masks import binary_mask, probabilities
from jaxdistill.evaluation.refinement import REFINEMENTS
from jaxdistill.runtime.errors import ConfigError, DataError
from jaxdistill.runtime.paths import expanded

if TYPE_CHECKING:
    from jaxdistill.checkpoint.best import Best
    from jaxdistill.models.student import Student

DEFAULT_SIZE = (320, 320)
AnyMask = Bool[np.ndarray, "h w"] | Float[np.ndarray, "h w"]


class Predictor:
    """Predicts where persons are in images.

    `load` returns one for a run folder or an ONNX file.

    Args:
      backend: The model.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def description(self) -> str:
        """One line about the model, for people."""
        return self._backend.description

    @property
    def size(self) -> Size:
        """Height and width to which `predict` resizes images."""
        return self._backend.size

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the model's weights or file."""
        return self._backend.fingerprint

    def logits(self, images: Images) -> Logits:
        """Returns mask logits at the size of the images; a person where they are positive.

        Args:
          images: RGB, uint8, shape (B, H, W, 3), best of height and width `size`. The student of a
            run needs multiples of its largest stride.

        Returns:
          Logits of shape (B, H, W, 1).
        """
        return self._backend.logits(images)

    @overload
    def predict(
        self,
        images: np.ndarray,
        threshold: float = ...,
        soft: bool = ...,
        *,
        refine: str | None = ...,
        batch_size: int = ...,
    ) -> AnyMask: ...

    @overload
    def predict(
        self,
        images: Sequence[np.ndarray],
        threshold: float = ...,
        soft: bool = ...,
        *,
        refine: str | None = ...,
        batch_size: int = ...,
    ) -> list[AnyMask]: ...

    def predict(
        self,
        images: Any,
        threshold: float = 0.5,
        soft: bool = False,
        *,
        refine: str | None = None,
        batch_size: int = 4,
    ) -> AnyMask | list[AnyMask]:
        """Predicts the masks of images.

        Images are resized to `size`; the logits are resized back to the image before they become a
        mask.

        Args:
          images: One RGB image, uint8, of shape (H, W, 3), or a sequence of such images, each of
            its own size.
          threshold: A person is where the probability is above it; between 0 and 1, exclusive.
          soft: Whether to return probabilities instead of masks; `threshold` is not used then.
          refine: `guided` lets edges follow the image at its own size; see `evaluation.refinement`.
          batch_size: Number of images that the model processes at a time.

        Returns:
          A mask of shape (H, W) and type bool, in which True is a person; with `soft`, the
          probabilities in float32. One array for one image, a list for a sequence.

        Raises:
          DataError: An image is not RGB of type uint8 (`not-an-rgb-image`).
          ConfigError: The threshold is not between 0 and 1 (`threshold`), the batch size is not
            positive (`batch-size`), or there is no such refinement (`unknown-refinement`).
        """
        check_options(threshold, batch_size, refine)
        if isinstance(images, np.ndarray) and images.ndim == 3:
            return next(self._masks([images], None if soft else threshold, refine, batch_size))
        return list(self._masks(images, None if soft else threshold, refine, batch_size))

    def _masks(
        self,
        images: Sequence[RgbImage],
        threshold: float | None,
        refine: str | None,
        batch_size: int,
    ) -> Iterator[AnyMask]:
        for number, image in enumerate(images):
            _check_image(image, number)
        size = min(batch_size, len(images))
        for start in range(0, len(images), size or 1):
            chunk = images[start : start + size]
            resized = [image_ops.resize_image(image, self.size) for image in chunk]
            for image, logits in zip(chunk, self.padded_logits(resized, size), strict=True):
                yield to_mask(logits, image, threshold, refine)

    def padded_logits(
        self, images: Sequence[RgbImage], batch_size: int
    ) -> Float[np.ndarray, "n h w"]:
        """Returns the logits of images that have the size of the model already.

        The batch is filled up with black images, so that a smaller one is not compiled again.

        Args:
          images: At most `batch_size` images of height and width `size`.
          batch_size: The number of images that the model gets.

        Returns:
          The logits of the images, on the host.
        """
        batch = np.zeros((batch_size, *self.size, 3), np.uint8)
        for row, image in zip(batch, images, strict=False):
            row[:] = image
        return np.asarray(self.logits(batch))[: len(images), ..., 0]


def load(
    path: str | Path,
    *,
    output: OutputKind | None = None,
    normalization: config.Normalization | None = None,
    tensor: str | None = None,
    size: Size | None = None,
    interpolate: float | None = None,
    channel: int | Sequence[int] | None = None,
    channel_order: ChannelOrder | None = None,
    layout: Layout | None = None,
    output_layout: Layout | None = None,
    default_size: Size | None = None,
) -> Predictor:
    """Loads the best student of a run, or an ONNX file.

    A run and an ONNX file of our export describe themselves. For other ONNX files, `output` is
    required.

    Args:
      path: The folder of a run, or a file with the ending `.onnx`.
      output: What the mask tensor of an ONNX file holds: `logits`, `probabilities`,
        `softmax_logits` or `class_indices`.
      normalization: What an ONNX file expects of pixels in [0, 1]: `imagenet`, `unit`, `half`,
        `bytes`, or a `config.MeanStd`; by default `bytes` for an input of uint8, else `imagenet`.
      tensor: The mask tensor of an ONNX file; its first output by default.
      size: Height and width of the model's input. By default the size of the file where it is
        fixed, else the size at which the student was trained.
      interpolate: For a run that started from a whole student's weights: 0 is the start, 1 the
        best checkpoint, and numbers between them weights between them. By default
        `training.interpolate` of the run.
      channel: The class of people in the mask of an ONNX file, or several that are added up.
      channel_order: Order of an ONNX file's input channels, `rgb` (the default) or `bgr`.
      layout: Axes of an ONNX file's input, `nchw` or `nhwc`; by default as its shape has them.
      output_layout: Axes of its mask; by default as its shape suggests.
      default_size: The input size of a file that neither fixes nor describes it.

    Returns:
      The predictor.

    Raises:
      ConfigError: The path is neither a folder nor an ONNX file (`unknown-model-format`), or the
        arguments are not sufficient or contradict the file (`unknown-output-kind`,
        `unknown-input-size`, `options-for-files`, `image-size`).
      RunError: The run has no usable checkpoint, or no start to interpolate with
        (`no-start-weights`).
      NetworkError: The ONNX file cannot be read or run.
    """
    path = expanded(path)
    size = (size[0], size[1]) if size else None
    options = ModelOptions(
        output=output,
        normalization=normalization,
        tensor=tensor,
        size=size,
        interpolate=interpolate,
        channel=channel,
        channel_order=channel_order,
        layout=layout,
        output_layout=output_layout,
    )
    return Predictor(_open(path, options, default_size))


def from_model(model: "Student", size: Size | None = None) -> Predictor:
    """Returns the predictor of a student in memory.

    Args:
      model: The student.
      size: Height and width to which images are resized; 320 x 320 by default.

    Raises:
      ConfigError: The size does not fit the student (`image-size`).
    """
    from jaxdistill.evaluation.flax_backend import FlaxBackend

    return Predictor(FlaxBackend(model, size or DEFAULT_SIZE))


def from_best(best: "Best") -> Predictor:
    """Returns the predictor of a run's best student.

    Args:
      best: What `Trainer.best()` or `checkpoint.best.best(run)` returns.
    """
    from jaxdistill.evaluation.flax_backend import of_best

    return Predictor(of_best(best, ModelOptions()))


def check_options(threshold: float, batch_size: int, refine: str | None = None) -> None:
    """Checks the options of a prediction.

    Args:
      threshold: A probability.
      batch_size: A number of images.
      refine: A name in `refinement.REFINEMENTS`, or None.

    Raises:
      ConfigError: The threshold is not between 0 and 1 (`threshold`), the batch size is not
        positive (`batch-size`), or there is no such refinement (`unknown-refinement`).
    """
    if not 0 < threshold < 1:
        raise ConfigError(
            f"threshold {threshold}: expected a probability between 0 and 1", code="threshold"
        )
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: expected at least 1", code="batch-size")
    if refine is not None:
        REFINEMENTS[refine]  # refuses an unknown one


def unknown_model(path: Path) -> ConfigError:
    """Returns the error of a path that is neither the folder of a run nor an ONNX file.

    Args:
      path: The path.
    """
    found = "is no such file" if path.exists() else "does not exist"
    return ConfigError(
        f"{path.absolute()} {found}; expected the folder of a run, or a file NAME.onnx (a .tflite "
        f"file runs in LiteRT and MediaPipe)",
        code="unknown-model-format",
    )


def to_mask(
    logits: Float[np.ndarray, "h w"],
    image: RgbImage,
    threshold: float | None,
    refine: str | None = None,
) -> AnyMask:
    """Returns the mask of an image.

    Args:
      logits: Logits at the size of the model.
      image: RGB; the mask gets its size.
      threshold: A person is where the probability is above it; None returns probabilities.
      refine: A name in `refinement.REFINEMENTS`; None interpolates the logits.
    """
    if refine is not None:
        refined = REFINEMENTS[refine](logits, image)
        return refined if threshold is None else refined > threshold
    if threshold is None:
        return probabilities(logits, image.shape[:2])
    return binary_mask(logits, image.shape[:2], threshold)


def _open(path: Path, options: ModelOptions, default_size: Size | None) -> Backend:
    """Chooses the backend. Each is imported when it is needed: a run needs no onnxruntime."""
    if path.is_dir():
        from jaxdistill.evaluation.flax_backend import open_run

        return open_run(path, options)
    if path.suffix == ".onnx":
        from jaxdistill.evaluation.onnx_backend import OnnxBackend

        if options.interpolate is not None:
            raise ConfigError(
                f"{path}: interpolate (--interpolate) is for runs; export the run with it instead",
                code="options-for-runs",
            )
        return OnnxBackend(path, options, default_size)
    raise unknown_model(path)


def _check_image(image: Any, number: int) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != np.uint8:
        got = type(image).__name__ if shape is None else f"{dtype} of shape {tuple(shape)}"
        raise DataError(
            f"image {number}: expected RGB of type uint8 and shape (height, width, 3), got {got}",
            code="not-an-rgb-image",
        )
