"""ONNX files in onnxruntime: our own exports, which describe themselves, and others."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.data import image_ops
from jaxdistill.evaluation.backend import Backend, Images, Logits, ModelOptions
from jaxdistill.evaluation.onnx_metadata import OnnxMetadata, read_metadata
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers import onnx_runtime
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_teacher import Onnx, to_logits


def open_onnx(path: Path, options: ModelOptions, default_size: Size | None = None) -> Backend:
    """Opens an ONNX file.

    Args:
      path: The file.
      options: How to use the file; what is not given is taken from the file's own description.
      default_size: Input size of a file that neither fixes nor describes it.

    Raises:
      NetworkError: The file cannot be read or run; see `OnnxGraph` and `Onnx`.
      ConfigError: The options are not sufficient (`unknown-output-kind`, `unknown-input-size`) or
        contradict the file (`options-for-files`).
    """
    graph = OnnxGraph(path)  # refuses what onnxruntime should not see
    metadata = read_metadata(graph.path)
    if metadata is not None and metadata.takes_bytes:
        return ByteBackend(graph, metadata, options)
    return FloatBackend(graph, metadata, options, default_size)


class FloatBackend:
    """A network with an input (N, 3, H, W) of floats.

    Images of any size are resized to the input, and the mask is resized back.

    Args:
      graph: The file.
      metadata: Its own description, if it has one.
      options: What is given takes precedence over the description.
      default_size: Input size of a file that neither fixes nor describes it.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        metadata: OnnxMetadata | None,
        options: ModelOptions,
        default_size: Size | None,
    ) -> None:
        output, normalization = options.output, options.normalization
        if metadata is not None:
            output = output or metadata.output_kind
            normalization = normalization or metadata.input_normalization
            default_size = metadata.image_size
        if output is None:
            raise ConfigError(
                f"{graph.path}: the file does not state what its mask holds; pass output "
                f"(--output-kind) logits or probabilities",
                code="unknown-output-kind",
            )
        tensor = options.tensor or graph.outputs[0]
        image = graph.cut([tensor]).input
        self.size = options.size or _input_size(graph, image.height, image.width, default_size)
        self.fingerprint = graph.fingerprint
        self._network = Onnx(
            graph,
            tensor=tensor,
            output=output,
            normalization=normalization or "imagenet",
            size=self.size,
        )
        self._network.output_shapes(self.size)  # opens and tries it, so that errors appear here
        [line] = self._network.describe()
        self.description = line.removeprefix("teacher: ")

    def logits(self, images: Images) -> Logits:
        """Returns the mask logits at the size of the images."""
        logits = self._network(image_ops.to_float(images)).logits
        assert logits is not None
        return logits


class ByteBackend:
    """A file of our export with an input (N, H, W, 3) of uint8.

    Images of any size are resized to the input on the host, and the mask is resized back.

    Args:
      graph: The file.
      metadata: Its own description.
      options: Only the size can be chosen.
    """

    def __init__(self, graph: OnnxGraph, metadata: OnnxMetadata, options: ModelOptions) -> None:
        if options.describes_file:
            raise ConfigError(
                f"{graph.path}: the file describes itself; leave out output (--output-kind), "
                f"normalization and tensor",
                code="options-for-files",
            )
        self.size = options.size or _input_size(graph, *metadata.fixed_size, metadata.image_size)
        self.fingerprint = graph.fingerprint
        self.description = f"{graph.path}, from uint8 images of {self.size[0]} x {self.size[1]}"
        self._output = metadata.output_kind
        self._session = onnx_runtime.open_session(graph.path, graph.whole())
        self._input = self._session.get_inputs()[0].name
        self._try(graph.path)

    def logits(self, images: Images) -> Logits:
        """Returns the mask logits at the size of the images."""
        images = _as_bytes(images)
        resized = np.stack([image_ops.resize_image(image, self.size) for image in images])
        # One image at a time is faster on a CPU: the activations stay in the cache.
        masks = [self._session.run(None, {self._input: one})[0] for one in resized[:, None]]
        stacked = np.concatenate(masks).transpose(0, 2, 3, 1)
        return to_logits(jnp.asarray(stacked), self._output, images.shape[1:3])

    def _try(self, path: Path) -> None:
        black = np.zeros((1, *self.size, 3), np.uint8)
        try:
            with onnx_runtime.within(onnx_runtime.PATIENCE) as options:
                [mask] = self._session.run(None, {self._input: black}, options)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise onnx_runtime.cannot_run(path, self.size, error) from None
        if mask.ndim != 4 or mask.shape[:2] != (1, 1):
            raise NetworkError(
                f"{path}: expected a mask of shape (1, 1, h, w), got {mask.shape}",
                code="onnx-tensor-shape",
            )


def _as_bytes(images: np.ndarray) -> Images:
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else np.rint(images * 255).astype(np.uint8)


def _input_size(
    graph: OnnxGraph, height: int | None, width: int | None, default: Size | None
) -> Size:
    """Returns the size that the file fixes, completed by `default`."""
    if any(side is not None and not 0 < side <= config.LARGEST_SIDE for side in (height, width)):
        raise NetworkError(
            f"{graph.path}: the input is fixed to {height} x {width}, which is not a valid size",
            code="onnx-input-size",
        )
    if height and width:
        return height, width
    if default is None:
        raise ConfigError(
            f"{graph.path}: the file accepts images of any size; choose one with size (--size H W)",
            code="unknown-input-size",
        )
    return height or default[0], width or default[1]
