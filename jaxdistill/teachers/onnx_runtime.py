"""onnxruntime as the teachers use it: its sessions, its time limit, its errors."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import onnxruntime

from jaxdistill import config
from jaxdistill.config import Size
from jaxdistill.runtime.errors import NetworkError

PATIENCE = 600
"""Seconds that a network may take for its first image."""
_ARENA = {"same_as_requested": "kSameAsRequested", "next_power_of_two": "kNextPowerOfTwo"}
_WITHOUT_TF32 = ("float32", "highest", "F32_F32_F32", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6")
_LOG_FATAL = 4  # onnxruntime's log severities: it raises what it would log as an error
_LOG_ERROR = 3


def open_session(
    path: Path,
    model: bytes,
    threads: int | None = None,
    options: config.Onnxruntime | None = None,
    gpu: int | None = None,
    *,
    on_cpu: bool = False,
) -> onnxruntime.InferenceSession:
    """Opens a model in onnxruntime, on the GPU where there is one.

    Args:
      path: The file that the model was cut from; its folder has the external weights.
      model: The serialized model.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.
      options: Options of the CUDA provider; None takes the defaults.
      gpu: CUDA number of the GPU; None is this process's first one.
      on_cpu: Whether to leave a GPU out.

    Raises:
      NetworkError: onnxruntime refuses it (`onnx-open`).
    """
    # Whatever onnxruntime warns of, no user can mend; what fails raises as well.
    onnxruntime.set_default_logger_severity(_LOG_ERROR)
    chosen = providers()[-1:] if on_cpu else providers()
    session = onnxruntime.SessionOptions()
    session.log_severity_level = _LOG_FATAL
    session.intra_op_num_threads = threads or 0
    folder = str(path.parent.resolve())
    session.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    # The training step computes at the same time: a thread that waits must not burn a core.
    session.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cuda = cuda_options(options or config.Onnxruntime(), hardware_id() if gpu is None else gpu)
    try:
        # Its own fallback prints a banner and goes on without the GPU.
        return onnxruntime.InferenceSession(
            model,
            session,
            providers=chosen,
            provider_options=[cuda if name.startswith("CUDA") else {} for name in chosen],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise NetworkError(
            f"{path}: onnxruntime cannot open it: {_line(error)}", code="onnx-open"
        ) from None


def cannot_run(path: Path, size: Size, error: Exception) -> NetworkError:
    """Returns the error (`onnx-run`) for an exception of onnxruntime while it ran a network."""
    height, width = size
    return NetworkError(
        f"{path}: onnxruntime cannot run it on images of {height} x {width}: {_line(error)}",
        code="onnx-run",
    )


@contextlib.contextmanager
def within(seconds: float) -> Iterator[onnxruntime.RunOptions]:
    """Yields options for a run that onnxruntime ends after some seconds.

    A loop in a file may never end, and a thread inside onnxruntime does not notice Ctrl-C.
    """
    options = onnxruntime.RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def providers() -> list[str]:
    """Returns the execution providers that a session is opened with, the preferred one first."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()  # else CUDA's libraries from PyPI are not found, silently
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def cuda_options(options: config.Onnxruntime, gpu: int) -> dict[str, str]:
    """Returns the options of onnxruntime's CUDA provider, by its names.

    Args:
      options: The settings.
      gpu: CUDA number of the GPU.
    """
    return {
        "device_id": str(gpu),
        "cudnn_conv_algo_search": options.cudnn_conv_algo_search.upper(),
        "prefer_nhwc": str(int(options.prefer_nhwc)),
        "arena_extend_strategy": _ARENA[options.arena_extend_strategy],
        "use_tf32": str(int(rounds_to_tf32(options))),
    }


def rounds_to_tf32(options: config.Onnxruntime) -> bool:
    """Returns whether onnxruntime may use TF32 on a GPU: as set, else as JAX does.

    Args:
      options: The settings.
    """
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":  # CUDA's libraries obey it, whatever is set
        return False
    if options.use_tf32 is not None:
        return options.use_tf32
    return getattr(jax.config, "jax_default_matmul_precision", None) not in _WITHOUT_TF32


def hardware_id(device: jax.Device | None = None) -> int:
    """Returns the CUDA number of a GPU of this process.

    Args:
      device: The GPU; None is the first one, since each process may have its own.
    """
    if jax.default_backend() != "gpu":
        return 0
    return (device or jax.local_devices()[0]).local_hardware_id or 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
