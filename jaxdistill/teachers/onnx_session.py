"""Some tensors of one ONNX file, computed by onnxruntime.

Images and maps are NHWC outside and NCHW only between this module and onnxruntime. Both share the
arrays' memory, so nothing is copied between them, on the CPU and on a GPU alike.
"""

import functools
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from jaxtyping import Array, Float

from jaxdistill.config import Size
from jaxdistill.data.decode import MAX_PIXELS
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.base import Shape
from jaxdistill.teachers.onnx_graph import ImageInput, OnnxGraph
from jaxdistill.teachers.onnx_runtime import (
    PATIENCE,
    cannot_run,
    first_gpu,
    open_session,
    providers,
    within,
)

log = logging.getLogger(__name__)

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
"""onnxruntime's names of the element types that a tensor may have."""


class OnnxSession:
    """Computes tensors of an ONNX file.

    Args:
      graph: The file.
      tensors: Names of outputs or inner tensors of shape (N, C, h, w).
      size: Height and width of the network's input; None uses the file's own where it is fixed,
        else the size of the images that are given.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.

    Raises:
      NetworkError: Whatever `OnnxGraph.cut` raises; the file's fixed size is not `size`
        (`onnx-size`); onnxruntime cannot open the graph (`onnx-open`); a tensor does not hold
        floats (`onnx-tensor-type`).
    """

    def __init__(
        self,
        graph: OnnxGraph,
        tensors: Sequence[str],
        size: Size | None = None,
        threads: int | None = None,
    ) -> None:
        self.path, self.tensors, self._size = graph.path, tuple(tensors), size
        cut = graph.cut(tensors)
        self._input = cut.input
        self.input_size(size or (1, 1))  # the file's own size may conflict, or be too large
        self._session = self._open(cut.model, threads)
        self.provider: str = self._session.get_providers()[0]
        """The onnxruntime execution provider that does the work."""
        self._on_gpu = self.provider == "CUDAExecutionProvider"
        self._device = "cuda" if self._on_gpu and jax.default_backend() == "gpu" else "cpu"
        self._ordinal = first_gpu() if self._device == "cuda" else 0
        # One image at a time is faster on a CPU: its working set stays in the cache. On a GPU every
        # call has the same batch size, since onnxruntime searches cuDNN's algorithms, and JAX
        # compiles, for each size anew.
        self._chunk = self._input.batch or (None if self._on_gpu else 1)
        self._lock = threading.Lock()
        self.known_shapes: dict[Size, tuple[Shape, ...]] = {}
        """(h, w, C) of each tensor, for the input sizes that were tried."""
        log.info("%s: %s on %s", self.path.name, ", ".join(self.tensors), self.provider)

    def input_size(self, image_size: Size) -> Size:
        """Returns height and width of the network's input for images of a size.

        Raises:
          NetworkError: The input would be too large (`onnx-input-pixels`).
        """
        return input_size(self.path, self._input, self._size, image_size)

    def set_batch_size(self, batch_size: int) -> None:
        """Says how many images a GPU is to compute at once; without it the first batch decides.

        Does nothing on a CPU, where the file fixes the number, or where it is known already.

        Args:
          batch_size: Number of images; smaller batches are padded.
        """
        if self._chunk is None:
            self._chunk = batch_size
            self.known_shapes.clear()  # the network is to be tried at that batch size

    def shapes(self, size: Size) -> tuple[Shape, ...]:
        """Returns (h, w, C) of each tensor for an input of a size.

        Runs the network on black images the first time: shapes in files are often incomplete, or
        wrong. They are a whole batch where its size is known, so that this run is onnxruntime's
        warm-up as well.

        Args:
          size: Height and width of the network's input.

        Raises:
          NetworkError: onnxruntime cannot run it (`onnx-run`), or a tensor is not of shape
            (N, C, h, w) (`onnx-tensor-shape`).
        """
        if size not in self.known_shapes:
            try:
                self.known_shapes[size] = self._try(size, self._chunk or 1)
            except NetworkError as error:
                # A file may declare N free, and have a batch of 1 in its inner shapes.
                if self._input.batch is not None or self._chunk in (None, 1):
                    raise
                self.known_shapes[size] = self._try(size, 1)
                log.warning("%s; it gets one image at a time, which is slower", error)
                self._chunk = 1
        return self.known_shapes[size]

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the tensors.

        Args:
          images: Normalised images of the network's input size, (B, h, w, 3).

        Returns:
          One map (B, h, w, C) in float32 per tensor, on the device of the images.
        """
        batch, height, width, _ = images.shape
        self.set_batch_size(batch)
        self.shapes((height, width))
        assert self._chunk is not None
        chunks = _split(images, self._chunk, self._input.dtype)
        # While the producer of the training makes its next batch, another thread may validate. Two
        # runs at once would hold memory twice, and onnxruntime's arena would serve both streams.
        with self._lock:
            results = [self._run(chunk) for chunk in chunks]
            joined = tuple(_join(parts, batch) for parts in zip(*results, strict=True))
            # JAX has only enqueued `_join`, but drops its hold on the results with the last
            # reference to them. They lie in onnxruntime's arena, which the next run on its own
            # stream would overwrite while JAX still reads.
            jax.block_until_ready(joined)
            del results
        return jax.device_put(joined, images.sharding)

    def on_host(self, images: Float[np.ndarray, "b h w 3"]) -> dict[str, np.ndarray]:
        """Computes the tensors of a few images on the host, for which JAX compiles nothing.

        Args:
          images: Normalised images of the network's input size.

        Returns:
          One map (B, h, w, C) in float32 per tensor.
        """
        self.shapes(images.shape[1:3])
        count = self._chunk or 1  # a GPU has tuned its kernels for that many
        missing = -len(images) % count
        nchw = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))).transpose(0, 3, 1, 2)
        chunks = np.split(nchw.astype(self._input.dtype), len(nchw) // count)
        with self._lock:
            results = [
                self._session.run(self.tensors, {self._input.name: np.ascontiguousarray(chunk)})
                for chunk in chunks
            ]
        joined = (np.concatenate(parts)[: len(images)] for parts in zip(*results, strict=True))
        return {
            tensor: maps.transpose(0, 2, 3, 1).astype(np.float32)
            for tensor, maps in zip(self.tensors, joined, strict=True)
        }

    def _open(self, model: bytes, threads: int | None) -> onnxruntime.InferenceSession:
        session = open_session(self.path, model, threads)
        for tensor, output in zip(self.tensors, session.get_outputs(), strict=True):
            if output.type not in FLOATS:
                raise NetworkError(
                    f"{self.path}: expected floats in {tensor!r}, but it is a {output.type}; "
                    f"name another tensor",
                    code="onnx-tensor-type",
                )
        if session.get_providers()[0] != providers()[0]:
            log.warning(
                "%s: onnxruntime fell back to the CPU; check that its CUDA version is that of JAX",
                self.path.name,
            )
        return session

    def _black(self, count: int, size: Size) -> Float[Array, "n 3 h w"]:
        return jax.device_put(np.zeros((count, 3, *size), self._input.dtype))

    def _try(self, size: Size, batch: int) -> tuple[Shape, ...]:
        try:
            with self._lock, within(PATIENCE) as options:
                results = self._run(self._black(batch, size), options)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise cannot_run(self.path, size, error) from None
        for tensor, result in zip(self.tensors, results, strict=True):
            if result.ndim != 4 or result.shape[0] != batch or 0 in result.shape:
                raise NetworkError(
                    f"{self.path}: expected {tensor!r} to have the shape (N, C, h, w); for an "
                    f"image of {size[0]} x {size[1]} it has {result.shape}; name another tensor",
                    code="onnx-tensor-shape",
                )
        return tuple((h, w, channels) for _, channels, h, w in (r.shape for r in results))

    def _run(
        self, images: Float[Array, "n 3 h w"], options: onnxruntime.RunOptions | None = None
    ) -> tuple[Float[Array, "n c _ _"], ...]:
        """Calls onnxruntime once, in memory shared with JAX.

        Outputs are taken by DLPack, the input is passed by address: onnxruntime 1.22, which we
        support, takes no DLPack in its public interface.
        """
        images = jax.device_put(images, jax.local_devices(backend=self._device)[0])
        # onnxruntime works on a stream of its own, which does not wait for JAX's.
        images.block_until_ready()
        binding = self._session.io_binding()
        binding.bind_input(
            self._input.name,
            self._device,
            self._ordinal,
            images.dtype.type,
            images.shape,
            images.unsafe_buffer_pointer(),
        )
        for tensor in self.tensors:
            binding.bind_output(tensor, self._device, self._ordinal)
        # Returns when its own stream is done. `binding.synchronize_outputs()` would wait for all
        # work on the device, the training step included.
        self._session.run_with_iobinding(binding, options)
        outputs = binding.get_outputs_as_ortvaluevector()
        return tuple(jax.dlpack.from_dlpack(output) for output in outputs)


def input_size(path: Path, image: ImageInput, size: Size | None, image_size: Size) -> Size:
    """Returns a network's input size: per side what the file fixes, else `size`, else `image_size`.

    Args:
      path: The file, for messages.
      image: The network's input.
      size: The configured height and width; None where there is none.
      image_size: Height and width of the images.

    Raises:
      NetworkError: The file fixes another size than the configured one (`onnx-size`), or the input
        would have too many pixels (`onnx-input-pixels`).
    """
    own = (image.height, image.width)
    height, width = (fixed or side for fixed, side in zip(own, size or image_size, strict=True))
    if size and size != (height, width):
        shown = " x ".join(str(side or "any") for side in own)
        raise NetworkError(
            f"{path}: its input is fixed to {shown}, but the configured size is "
            f"{size[0]} x {size[1]}; leave the size out, or export the network at that size",
            code="onnx-size",
        )
    if (image.batch or 1) * height * width > MAX_PIXELS:
        raise NetworkError(
            f"{path}: its input is {image.batch or 1} images of {height} x {width}, "
            f"more than {MAX_PIXELS / 1e6:.0f} million pixels; export the network at another size",
            code="onnx-input-pixels",
        )
    return height, width


@functools.partial(jax.jit, static_argnums=(1, 2))
def _split(
    images: Float[Array, "b h w 3"], chunk: int, dtype: str
) -> list[Float[Array, "n 3 h w"]]:
    """Returns NCHW chunks of the images; the last one is filled up with black images."""
    missing = -len(images) % chunk
    images = jnp.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
    images = images.transpose(0, 3, 1, 2).astype(dtype)
    return jnp.split(images, len(images) // chunk)


@functools.partial(jax.jit, static_argnums=1)
def _join(parts: Sequence[Float[Array, "n c h w"]], batch: int) -> Float[Array, "b h w c"]:
    # Transposed before they are joined: five times faster in XLA than the other way round.
    joined = jnp.concatenate([part.transpose(0, 2, 3, 1) for part in parts])
    return joined[:batch].astype(jnp.float32)
