"""One frozen network in onnxruntime: what it eats, what it gives.

NHWC outside, NCHW only between here and onnxruntime. Both share the arrays' memory, so nothing is
copied between them, on the CPU and on a GPU alike.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import onnxruntime
from jaxtyping import Array, Float

from jaxdistill.config import Size
from jaxdistill.data.decode import MAX_PIXELS
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.onnx_graph import OnnxGraph, Picture

log = logging.getLogger(__name__)

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
PATIENCE = 600
"""Seconds that a network may take for its first picture."""
FATAL_ONLY = 4  # onnxruntime's log severity: whatever else it has to say, it raises as well
onnxruntime.set_default_logger_severity(3)  # errors; of what warns, nothing is a user's to mend


class OnnxNetwork:
    """Some tensors of an ONNX file, computed for pictures of one size.

    `size` is the input's (height, width) as the user wants it; where that is None, the file's own
    counts if it is fixed, else `image_size`. `threads` bounds onnxruntime's threads on the CPU.

    Raises:
      UserError: beside what `OnnxGraph.cut` raises: the file's fixed size is not `size`;
        onnxruntime cannot run the graph; a tensor is not of shape (N, C, h, w).
    """

    def __init__(
        self,
        graph: OnnxGraph,
        tensors: Sequence[str],
        size: Size | None,
        image_size: Size,
        threads: int | None = None,
    ) -> None:
        self.path = graph.path
        self.tensors = tuple(tensors)
        cut = graph.cut(tensors)
        self._picture = cut.picture
        self.size = input_size(self.path, cut.picture, size, image_size)
        """Height and width of the pictures that it eats."""
        self._session = self._open(cut.model, threads)
        self.provider: str = self._session.get_providers()[0]
        """The onnxruntime execution provider that does the work."""
        on_gpu = self.provider == "CUDAExecutionProvider"
        self._device = "cuda" if on_gpu and jax.default_backend() == "gpu" else "cpu"
        self._ordinal = _gpu() if self._device == "cuda" else 0
        # One picture at a time is faster on a CPU: its working set stays in the cache.
        at_once = on_gpu and self._takes_several()
        self._chunk = self._picture.batch or (None if at_once else 1)
        self.shapes = self._try()
        """(h, w, C) of each tensor."""
        log.info("%s: %s on %s", self.path.name, ", ".join(self.tensors), self.provider)

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """The tensors, (B, h, w, C) in float32, for normalised pictures of `self.size`."""
        home = images.sharding
        chunks = _feed(images, self._chunk or len(images), self._picture.dtype)
        results = [self._run(chunk) for chunk in chunks]
        gathered = tuple(_gather(parts, len(images)) for parts in zip(*results, strict=True))
        return jax.device_put(gathered, home)

    def _open(self, model: bytes, threads: int | None) -> onnxruntime.InferenceSession:
        session = open_session(self.path, model, threads)
        for tensor, output in zip(self.tensors, session.get_outputs(), strict=True):
            if output.type not in FLOATS:
                raise UserError(f"{self.path}: {tensor!r} is a {output.type}, not of floats")
        if session.get_providers()[0] != _providers()[0]:
            log.warning(
                "%s: onnxruntime fell back to the CPU; see that its CUDA version is JAX's",
                self.path.name,
            )
        return session

    def _takes_several(self) -> bool:
        """Whether two pictures have two answers: a file may say that N is free, and have a batch of
        1 in its inner shapes."""
        try:
            with within(PATIENCE) as options:
                results = self._run(self._black(2), options)
        except Exception:  # `_try` says what is wrong, if one picture is too many as well
            return False
        return all(result.ndim == 4 and result.shape[0] == 2 for result in results)

    def _black(self, count: int) -> Float[Array, "n 3 h w"]:
        return jnp.zeros((count, 3, *self.size), self._picture.dtype)

    def _try(self) -> tuple[tuple[int, int, int], ...]:
        """Runs one chunk of black pictures: shapes in files are often incomplete, or wrong."""
        batch = self._chunk or 1
        height, width = self.size
        try:
            with within(PATIENCE) as options:
                results = self._run(self._black(batch), options)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise cannot_run(self.path, self.size, error) from None
        for tensor, result in zip(self.tensors, results, strict=True):
            if result.ndim != 4 or result.shape[0] != batch or 0 in result.shape:
                raise UserError(
                    f"{self.path}: expected {tensor!r} to have the shape (N, C, h, w); for a "
                    f"picture of {height} x {width} it has {result.shape}"
                )
        return tuple((h, w, channels) for _, channels, h, w in (r.shape for r in results))

    def _run(
        self, images: Float[Array, "n 3 h w"], options: onnxruntime.RunOptions | None = None
    ) -> tuple[Float[Array, "n c _ _"], ...]:
        """One call of onnxruntime, in memory shared with JAX.

        Outputs are taken by DLPack, the input is given by address: onnxruntime 1.22, which we
        support, takes no DLPack in its public interface.
        """
        images = jax.device_put(images, jax.local_devices(backend=self._device)[0])
        images.block_until_ready()  # onnxruntime works on a stream of its own
        binding = self._session.io_binding()
        binding.bind_input(
            self._picture.name,
            self._device,
            self._ordinal,
            images.dtype.type,
            images.shape,
            images.unsafe_buffer_pointer(),
        )
        for tensor in self.tensors:
            binding.bind_output(tensor, self._device, self._ordinal)
        self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        outputs = binding.get_outputs_as_ortvaluevector()
        return tuple(jax.dlpack.from_dlpack(output) for output in outputs)


def input_size(path: Path, picture: Picture, size: Size | None, image_size: Size) -> Size:
    """Side by side, what the file fixes, else what is configured, else `image_size`."""
    own = (picture.height, picture.width)
    height, width = (fixed or side for fixed, side in zip(own, size or image_size, strict=True))
    if size and size != (height, width):
        shown = " x ".join(str(side or "any") for side in own)
        raise UserError(
            f"{path}: its input is fixed to {shown}, but the configured size is "
            f"{size[0]} x {size[1]}; leave the size out, or export the network at that size"
        )
    if (picture.batch or 1) * height * width > MAX_PIXELS:
        raise UserError(
            f"{path}: its input is fixed to {picture.batch or 1} pictures of {height} x {width}, "
            f"more than {MAX_PIXELS / 1e6:.0f} million pixels"
        )
    return height, width


def open_session(
    path: Path, model: bytes, threads: int | None = None
) -> onnxruntime.InferenceSession:
    """A model cut from the file at `path`, ready to run.

    Raises:
      UserError: onnxruntime refuses it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    folder = str(path.parent.resolve())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    # The training step computes at the same time: a thread that waits must not burn a core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Its own fallback prints a banner and goes on without the GPU.
        return onnxruntime.InferenceSession(
            model,
            options,
            providers=_providers(),
            provider_options=[
                {"device_id": _gpu()} if name.startswith("CUDA") else {} for name in _providers()
            ],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise UserError(f"{path}: onnxruntime cannot open it: {_line(error)}") from None


def cannot_run(path: Path, size: Size, error: Exception) -> UserError:
    """What onnxruntime said when it should have run."""
    height, width = size
    return UserError(
        f"{path}: onnxruntime cannot run it on pictures of {height} x {width}: {_line(error)}"
    )


@contextlib.contextmanager
def within(seconds: float) -> Iterator[onnxruntime.RunOptions]:
    """Options for a run that is to end by then: a loop in a file may have no end, and a thread
    inside of onnxruntime hears no Ctrl-C."""
    options = onnxruntime.RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


@functools.partial(jax.jit, static_argnums=(1, 2))
def _feed(images: Float[Array, "b h w 3"], chunk: int, dtype: str) -> list[Float[Array, "n 3 h w"]]:
    """Pictures as onnxruntime wants them, in chunks, the last one filled up with black ones."""
    missing = -len(images) % chunk
    images = jnp.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
    images = images.transpose(0, 3, 1, 2).astype(dtype)
    return jnp.split(images, len(images) // chunk)


@functools.partial(jax.jit, static_argnums=1)
def _gather(parts: Sequence[Float[Array, "n c h w"]], batch: int) -> Float[Array, "b h w c"]:
    # Transposed before they are joined: five times faster in XLA than the other way round.
    joined = jnp.concatenate([part.transpose(0, 2, 3, 1) for part in parts])
    return joined[:batch].astype(jnp.float32)


def _providers() -> list[str]:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()  # else CUDA's libraries from PyPI are not found, silently
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _gpu() -> int:
    """This process's first GPU, by CUDA's number: several processes may each have their own."""
    if jax.default_backend() != "gpu":
        return 0
    return jax.local_devices()[0].local_hardware_id or 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
