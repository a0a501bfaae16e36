"""Some tensors of one ONNX file, computed by onnxruntime on this process's devices.

Images and maps are NHWC here; between `onnx_device` and onnxruntime they are as the file has them.
"""

import functools
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxdistill import config
from jaxdistill.config import OutputKind, Size
from jaxdistill.data.decode import MAX_PIXELS
from jaxdistill.runtime.errors import NetworkError, out_of_memory
from jaxdistill.teachers.base import Shape
from jaxdistill.teachers.network_format import (
    ImageInput,
    MaskOutput,
    OutputLayout,
    as_hwc,
    output_layout,
    to_nhwc,
)
from jaxdistill.teachers.onnx_device import DeviceSession
from jaxdistill.teachers.onnx_float16 import half_copy
from jaxdistill.teachers.onnx_graph import Cut, OnnxGraph
from jaxdistill.teachers.onnx_runtime import PATIENCE, cannot_run, rounds_to_tf32, within

log = logging.getLogger(__name__)


class OnnxSession:
    """Computes tensors of an ONNX file.

    Args:
      graph: The file.
      tensors: Names of outputs or inner tensors, (N, C, h, w); see `output_layout` for the mask.
      size: Height and width of the network's input; None uses the file's own where it is fixed,
        else the size of the images that are given.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.
      options: How a GPU computes it; None takes the defaults.
      mask: What the mask is, where one of the tensors is one.

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
        options: config.Onnxruntime | None = None,
        mask: MaskOutput | None = None,
    ) -> None:
        self.path, self.tensors, self._size = graph.path, tuple(tensors), size
        self._graph, self._mask = graph, mask
        self._threads, self._options = threads, options or config.Onnxruntime(precision="float32")
        cut = graph.cut(tensors)
        self.image = cut.input
        """The image input of the session, of the file or of its float16 copy."""
        self.input_size(size or (1, 1))  # the file's own size may conflict, or be too large
        self.float16_error: float | None = None
        """Error of the float16 copy that is used; None where there is none."""
        self._use(cut)
        self.provider = self._first.provider
        """The onnxruntime execution provider that does the work."""
        self.on_gpu = self._first.on_gpu
        """Whether a GPU does the work."""
        # One image at a time is faster on a CPU: its working set stays in the cache. On a GPU every
        # call has the same batch size, since onnxruntime searches cuDNN's algorithms, and JAX
        # compiles, for each size anew.
        self._chunk = self.image.batch or (None if self.on_gpu else 1)
        self._opening = threading.Lock()
        self.known_shapes: dict[Size, tuple[Shape, ...]] = {}
        """(h, w, C) of each tensor, for the input sizes that were tried."""
        self.layouts: dict[Size, tuple[OutputLayout, ...]] = {}
        """The axes of each tensor in the file, for the same sizes."""
        log.info("%s: %s on %s", self.path.name, ", ".join(self.tensors), self.provider)

    @property
    def precision(self) -> str:
        """Format of the factors of products: `float16`, `tf32` on a GPU, or `float32`."""
        if self.float16_error is not None:
            return "float16"
        return "tf32" if self.on_gpu and rounds_to_tf32(self._options) else "float32"

    def _use(self, cut: Cut) -> None:
        """Opens the network or its copy on the first device; see `_session_on` for the others."""
        self.image = cut.input
        self._open = functools.partial(
            DeviceSession,
            self.path,
            cut.model,
            cut.input,
            self.tensors,
            threads=self._threads,
            options=self._options,
            classes=self._masks("class_indices"),
        )
        self._first = self._open()
        self._of_device: dict[jax.Device, DeviceSession] = {}

    def _masks(self, *kinds: OutputKind) -> list[str]:
        """Returns the name of the mask tensor if it is of such a kind."""
        return [self._mask.tensor] if self._mask and self._mask.kind in kinds else []

    def _halve(self, size: Size) -> None:
        """Goes over to a float16 copy, where one is wanted and good enough."""
        wanted = self._options.precision
        if self.image.dtype == "float16" or not (
            wanted == "float16" or (wanted == "auto" and self.on_gpu)
        ):
            return
        absolute = self._masks("probabilities", "class_indices")
        try:
            cut, self.float16_error = half_copy(self._graph, self.tensors, absolute, size)
        except NetworkError as error:
            if wanted == "float16":
                raise
            log.warning("%s; it is computed in float32", error)
            return
        self._use(cut)

    def input_size(self, image_size: Size) -> Size:
        """Returns height and width of the network's input for images of a size.

        Raises:
          NetworkError: The input would be too large (`onnx-input-pixels`).
        """
        return input_size(self.path, self.image, self._size, image_size)

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
          NetworkError: onnxruntime cannot run it (`onnx-run`), a tensor is no map
            (`onnx-tensor-shape`), or its float16 copy differs too much
            (`onnx-float16`).
        """
        if size not in self.known_shapes:
            if not self.known_shapes and self.float16_error is None:
                self._halve(size)
            self.known_shapes[size] = self._try_fewer(size)
        return self.known_shapes[size]

    def _try_fewer(self, size: Size) -> tuple[Shape, ...]:
        """Tries a whole batch, and fewer images if the network cannot be run on so many."""
        while True:
            try:
                return self._try(size, self._chunk or 1)
            except NetworkError as error:
                if self.image.batch is not None or self._chunk in (None, 1):
                    raise
                if out_of_memory(error):
                    self._chunk //= 2
                    self._first = self._open()  # the old session keeps what it has allocated
                else:  # a file may declare N free, and have a batch of 1 in its inner shapes
                    self._chunk = 1
                log.warning("%s; it gets %s at a time, which is slower", error, self._chunk)

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the tensors.

        Args:
          images: Normalised images of the network's input size, (B, h, w, 3). Rows that are divided
            among several GPUs are computed where they are, all GPUs at the same time.

        Returns:
          One map (B, h, w, C) in float32 per tensor, on the devices of the images.
        """
        home = images.sharding
        divided = self._first.shares_gpu and not home.is_fully_replicated
        shards = images.addressable_shards if divided else []
        rows = len(shards[0].data) if divided else len(images)
        self.set_batch_size(rows)
        _, height, width, _ = images.shape
        self.shapes((height, width))
        assert self._chunk is not None
        layouts = self.layouts[height, width]
        if not divided:
            return jax.device_put(self._first(images, self._chunk, layouts), home)
        with ThreadPoolExecutor(len(shards), thread_name_prefix="onnx") as devices:
            sessions = [self._session_on(shard.device) for shard in shards]
            running = [
                devices.submit(session, shard.data, self._chunk, layouts)
                for session, shard in zip(sessions, shards, strict=True)
            ]
            results = [
                jax.device_put(each.result(), shard.device)
                for each, shard in zip(running, shards, strict=True)
            ]
        return tuple(
            jax.make_array_from_single_device_arrays(
                (len(images), *parts[0].shape[1:]), home, list(parts)
            )
            for parts in zip(*results, strict=True)
        )

    def on_host(self, images: Float[np.ndarray, "b h w 3"]) -> dict[str, np.ndarray]:
        """Computes the tensors of a few images on the host, for which JAX compiles nothing.

        Args:
          images: Normalised images of the network's input size.

        Returns:
          One map (B, h, w, C) in float32 per tensor.
        """
        _, height, width, _ = images.shape
        self.shapes((height, width))
        layouts = self.layouts[height, width]
        count = self._chunk or 1  # a GPU has tuned its kernels for that many
        missing = -len(images) % count
        whole = self.image.arrange(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))))
        chunks = np.split(whole, len(whole) // count)
        results = [self._first.on_host(np.ascontiguousarray(chunk)) for chunk in chunks]
        joined = (np.concatenate(parts)[: len(images)] for parts in zip(*results, strict=True))
        return {
            tensor: to_nhwc(maps, layout).astype(np.float32)
            for tensor, maps, layout in zip(self.tensors, joined, layouts, strict=True)
        }

    def _session_on(self, device: jax.Device) -> DeviceSession:
        """Returns the session of a GPU, opened when it is first asked for."""
        if device == jax.local_devices()[0]:
            return self._first
        with self._opening:
            if device not in self._of_device:
                self._of_device[device] = self._open(device)
            return self._of_device[device]

    def _try(self, size: Size, batch: int) -> tuple[Shape, ...]:
        black = np.zeros(self.image.shape(batch, size), self.image.dtype)
        try:
            with within(PATIENCE) as options:
                shapes = self._first.probe(jax.device_put(black), options)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise cannot_run(self.path, size, error) from None
        for tensor, shape in zip(self.tensors, shapes, strict=True):
            is_mask = self._mask is not None and tensor == self._mask.tensor
            ranks = (3, 4) if is_mask else (4,)
            if len(shape) not in ranks or shape[0] != batch or 0 in shape:
                axes = "(N, C, h, w), (N, h, w, C) or (N, h, w)" if is_mask else "(N, C, h, w)"
                raise NetworkError(
                    f"{self.path}: expected {tensor!r} to have the shape {axes}; for an image of "
                    f"{size[0]} x {size[1]} it has {shape}; name another tensor",
                    code="onnx-tensor-shape",
                )
        self.layouts[size] = tuple(
            self._layout(tensor, shape, size)
            for tensor, shape in zip(self.tensors, shapes, strict=True)
        )
        return tuple(map(as_hwc, shapes, self.layouts[size]))

    def _layout(self, tensor: str, shape: Sequence[int], size: Size) -> OutputLayout:
        """Returns the axes of a tensor; feature maps are NCHW, as ONNX's convolutions are."""
        if self._mask is None or tensor != self._mask.tensor:
            return "nchw"
        said = self._mask.layout if len(shape) == 4 else None
        return said or output_layout(shape, size, self.image.layout)


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
