"""A stage of check.py: teacher and detector in onnxruntime, alone and as training uses them."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import kit as kits
import numpy as np
import onnxruntime
import results

from jaxdistill.teachers import onnx_runtime
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession

OPTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "heuristic search": {"cudnn_conv_algo_search": "HEURISTIC"},
    "NHWC": {"prefer_nhwc": "1"},
    "no TF32": {"use_tf32": "0"},
}
"""Options of onnxruntime's CUDA provider that are compared."""
_CALLS = 15


def main() -> None:
    """Measures every network of the kit."""
    kit, folder = kits.opened()
    on_gpu = "CUDAExecutionProvider" in onnx_runtime.providers()
    provider = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
    for network in kit.networks:
        path, batch, side = folder / network["file"], network["batch"], network["side"]
        about = {"network": path.stem, "batch": batch, "side": side, "provider": provider}
        ways = {"in training": partial(_session, path, batch, side)}
        for label, options in (OPTIONS if on_gpu else {"default": {}}).items():
            ways[label] = partial(_alone, path, batch, side, provider, options)
        for label, make in ways.items():
            try:
                _measure(make, about | {"options": label})
            except Exception as error:
                results.record_error("onnx", error, **about, options=label)


def _measure(make: Callable[[], Callable[[], object]], about: dict[str, Any]) -> None:
    start = time.perf_counter()
    call = make()
    call()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    ms = 1e3 * statistics.median(seconds)
    results.record(
        "onnx",
        **about,
        onnxruntime=onnxruntime.__version__,
        open_and_first_s=round(first, 2),
        ms_per_image=round(ms / about["batch"], 3),
    )


def _session(path: Path, batch: int, side: int) -> Callable[[], object]:
    """Returns a call of the network as in training: NHWC arrays of JAX, in and out."""
    graph = OnnxGraph(path)
    session = OnnxSession(graph, graph.outputs)
    session.set_batch_size(batch)
    images = jax.random.uniform(jax.random.key(0), (batch, side, side, 3))
    return lambda: jax.block_until_ready(session(images))


def _alone(
    path: Path, batch: int, side: int, provider: str, options: dict[str, str]
) -> Callable[[], None]:
    """Returns a call of onnxruntime whose input and outputs stay on the device."""
    session = onnxruntime.InferenceSession(
        path, providers=[provider], provider_options=[options], enable_fallback=0
    )
    [image] = session.get_inputs()
    device = "cuda" if provider.startswith("CUDA") else "cpu"
    values = np.random.default_rng(0).random((batch, 3, side, side), np.float32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(values, device, 0)

    def call() -> None:
        binding = session.io_binding()
        binding.bind_ortvalue_input(image.name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, device, 0)
        session.run_with_iobinding(binding)

    return call


if __name__ == "__main__":
    main()
