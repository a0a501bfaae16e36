"""One network in onnxruntime on one device, in memory that it shares with JAX."""

import functools
import logging
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from jaxtyping import Array, Float, Num

from jaxdistill import config
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.network_format import ImageInput, OutputLayout, to_nhwc
from jaxdistill.teachers.onnx_runtime import hardware_id, open_session, providers

log = logging.getLogger(__name__)

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
"""onnxruntime's names of the element types that a tensor may have."""
INTEGERS = ("tensor(int64)", "tensor(int32)", "tensor(uint8)", "tensor(int8)", "tensor(bool)")
"""Those that class indices may have, besides."""


class DeviceSession:
    """Computes tensors of a network on one device; threads that call it take turns.

    Args:
      path: The file that the model was cut from.
      model: The serialized model, whose outputs are the tensors.
      image: Its input.
      tensors: Names of its outputs.
      device: The GPU; None uses this process's first one, or the CPU where there is none.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.
      options: Options of the CUDA provider.
      classes: The tensors that hold class indices, which may be integers.

    Raises:
      NetworkError: onnxruntime cannot open the model (`onnx-open`), or a tensor has another type of
        elements (`onnx-tensor-type`).
    """

    def __init__(
        self,
        path: Path,
        model: bytes,
        image: ImageInput,
        tensors: Sequence[str],
        device: jax.Device | None = None,
        threads: int | None = None,
        options: config.Onnxruntime | None = None,
        classes: Collection[str] = (),
    ) -> None:
        self._input, self._tensors, self._classes = image, tensors, classes
        self._ordinal = hardware_id(device)
        self._session = open_session(path, model, threads, options, self._ordinal)
        self._check(path)
        self.provider: str = self._session.get_providers()[0]
        """The onnxruntime execution provider that does the work."""
        self.on_gpu = self.provider == "CUDAExecutionProvider"
        """Whether a GPU does the work."""
        self.shares_gpu = self.on_gpu and jax.default_backend() == "gpu"
        """Whether it works on a GPU of JAX's."""
        self._memory = ("cuda", self._ordinal) if self.shares_gpu else ("cpu", 0)
        first, *_ = jax.local_devices(backend=self._memory[0])
        self._device = device if device is not None and self.shares_gpu else first
        self._lock = threading.Lock()

    def __call__(
        self, images: Float[Array, "b h w 3"], chunk: int, layouts: Sequence[OutputLayout]
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Computes the tensors of a batch.

        Args:
          images: Normalised images on any device.
          chunk: Number of images that are computed at once; the last ones are filled up.
          layouts: The axes of each tensor.

        Returns:
          One map (B, h, w, C) in float32 per tensor, on this session's device.
        """
        chunks = _split(images, chunk, self._input)
        # While the producer of the training makes its next batch, another thread may validate. Two
        # runs at once would hold memory twice, and onnxruntime's arena would serve both streams.
        with self._lock:
            results = [self._run(part) for part in chunks]
            joined = tuple(
                _join(parts, len(images), layout)
                for parts, layout in zip(zip(*results, strict=True), layouts, strict=True)
            )
            # JAX has only enqueued `_join`, but drops its hold on the results with the last
            # reference to them. They lie in onnxruntime's arena, which the next run on its own
            # stream would overwrite while JAX still reads.
            jax.block_until_ready(joined)
            del results
        return joined

    def probe(
        self, images: Num[Array, "n _ _ _"], options: onnxruntime.RunOptions
    ) -> list[tuple[int, ...]]:
        """Runs the network, and returns the shapes of its tensors.

        Args:
          images: Images in the input's layout and number format.
          options: Options of the run, such as a time limit.
        """
        with self._lock:
            return [result.shape for result in self._run(images, options)]

    def on_host(self, images: Num[np.ndarray, "n _ _ _"]) -> list[np.ndarray]:
        """Computes the tensors of images in memory of the host, as the network gives them.

        Args:
          images: Images in the input's layout and number format.
        """
        with self._lock:
            return self._session.run(self._tensors, {self._input.name: images})

    def _run(
        self, images: Num[Array, "n _ _ _"], options: onnxruntime.RunOptions | None = None
    ) -> tuple[Num[Array, "n ..."], ...]:
        """Calls onnxruntime once, in memory shared with JAX.

        Outputs are taken by DLPack, the input is passed by address: onnxruntime 1.22, which we
        support, takes no DLPack in its public interface.
        """
        images = jax.device_put(images, self._device)
        # onnxruntime works on a stream of its own, which does not wait for JAX's.
        images.block_until_ready()
        binding = self._session.io_binding()
        binding.bind_input(
            self._input.name,
            *self._memory,
            images.dtype.type,
            images.shape,
            images.unsafe_buffer_pointer(),
        )
        for tensor in self._tensors:
            binding.bind_output(tensor, *self._memory)
        # Returns when its own stream is done. `binding.synchronize_outputs()` would wait for all
        # work on the device, the training step included.
        self._session.run_with_iobinding(binding, options)
        outputs = binding.get_outputs_as_ortvaluevector()
        return tuple(jax.dlpack.from_dlpack(output) for output in outputs)

    def _check(self, path: Path) -> None:
        for tensor, output in zip(self._tensors, self._session.get_outputs(), strict=True):
            allowed = (*FLOATS, *INTEGERS) if tensor in self._classes else FLOATS
            if output.type not in allowed:
                raise NetworkError(
                    f"{path}: expected floats in {tensor!r}, but it is a {output.type}; name "
                    f"another tensor, or set output to class_indices if it is a mask of classes",
                    code="onnx-tensor-type",
                )
        if self._session.get_providers()[0] != providers()[0]:
            log.warning(
                "%s: onnxruntime fell back to the CPU; check that its CUDA version is that of JAX",
                path.name,
            )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _split(
    images: Float[Array, "b h w 3"], chunk: int, image: ImageInput
) -> list[Num[Array, "n _ _ _"]]:
    """Returns chunks of the images as the network takes them; the last is filled up with black."""
    missing = -len(images) % chunk
    images = image.arrange(jnp.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]))
    return jnp.split(images, len(images) // chunk)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _join(
    parts: Sequence[Num[Array, "n ..."]], batch: int, layout: OutputLayout
) -> Float[Array, "b h w c"]:
    # Transposed before they are joined: five times faster in XLA than the other way round.
    joined = jnp.concatenate([to_nhwc(part, layout) for part in parts])
    return joined[:batch].astype(jnp.float32)
