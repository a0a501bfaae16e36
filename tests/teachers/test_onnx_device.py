"""onnxruntime and JAX share memory: in which order, by which threads, and on which devices."""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from onnx_models import noise_images, save, segmenter
from onnx_sessions import as_on_a_gpu, opened
from virtual_devices import run_on_devices

from jaxdistill import config
from jaxdistill.teachers import onnx_device, onnx_runtime
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession


class FakeOrt:
    """Stands for an `InferenceSession` and its binding; records what happens to its outputs."""

    def __init__(self):
        self.events = []
        self._running = threading.Lock()

    def io_binding(self):
        return self

    def bind_input(self, *args):
        self._batch = args[4][0]

    def bind_output(self, *args):
        pass

    def run_with_iobinding(self, binding, options=None):
        assert self._running.acquire(blocking=False), "two threads run one session"
        time.sleep(0.01)  # time in which another thread would come in
        self.events.append("run")
        self._running.release()

    def synchronize_outputs(self):
        raise AssertionError("waits for everything on the device")

    def get_outputs_as_ortvaluevector(self):
        output = np.zeros((self._batch, 1, 8, 12), np.float32).view(_Tracked)
        weakref.finalize(output, self.events.append, "released")
        return [output]


class _Tracked(np.ndarray):
    """An array that can tell when nothing refers to it any more."""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Returns a session on a fake onnxruntime, which was tried, and the events."""
    session = as_on_a_gpu(OnnxSession(OnnxGraph(save(segmenter(), tmp_path)), ["mask"]))
    session._first._session = FakeOrt()
    session.set_batch_size(2)
    session.shapes((8, 12))
    events = session._first._session.events
    events.clear()

    def join(parts, batch, layout):
        events.append("gather enqueued")
        return jnp.array(np.array(parts[0])).transpose(0, 2, 3, 1)

    def block(arrays, block_until_ready=jax.block_until_ready):
        events.append("gather done")
        return block_until_ready(arrays)

    # JAX would copy an array that is not aligned to 64 bytes.
    monkeypatch.setattr(jax.dlpack, "from_dlpack", lambda value: value)
    monkeypatch.setattr(onnx_device, "_join", join)
    monkeypatch.setattr(jax, "block_until_ready", block)
    return session, events


def test_outputs_are_held_until_jax_has_read_them(fake):
    session, events = fake
    session(jnp.zeros((2, 8, 12, 3)))
    assert events == ["run", "gather enqueued", "gather done", "released"]


def test_one_thread_at_a_time_runs_a_session(fake):
    """Training's producer and validation; the second run waits for the first one's gather."""
    session, events = fake
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(session, jnp.zeros((2, 8, 12, 3))) for _ in range(8)]:
            done.result()
    in_order = [event for event in events if event != "released"]
    assert in_order == ["run", "gather enqueued", "gather done"] * 8


def test_results_stay_when_the_network_runs_again(tmp_path):
    """They lie in onnxruntime's own memory, which it must not use again while they live."""
    frozen = opened(save(segmenter(), tmp_path), ["inner"])
    batches = [jnp.full((1, 8, 12, 3), value) for value in np.linspace(-1, 1, 20)]
    results = [frozen(batch)[0] for batch in batches]
    copies = [np.array(frozen(batch)[0]) for batch in batches]
    np.testing.assert_array_equal(results, copies)
    del frozen
    np.testing.assert_array_equal(results, copies)


def test_results_are_onnxruntimes_own_memory(tmp_path, monkeypatch):
    addresses = []

    def spy(value, take=jax.dlpack.from_dlpack):
        array = take(value)
        addresses.append((value.data_ptr(), array.unsafe_buffer_pointer()))
        return array

    frozen = opened(save(segmenter(), tmp_path), ["inner", "mask"])
    monkeypatch.setattr(jax.dlpack, "from_dlpack", spy)
    frozen(jnp.asarray(noise_images(3, 8, 12)))
    assert len(addresses) == 6
    assert all(theirs == ours for theirs, ours in addresses)


def test_threads_are_bounded(tmp_path):
    frozen = opened(save(segmenter(), tmp_path), threads=1)
    assert frozen._first._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("settings_", "precision", "wanted"),
    [
        ({}, None, {"use_tf32": "1", "arena_extend_strategy": "kSameAsRequested"}),
        ({}, "highest", {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}),
        ({"use_tf32": True}, "highest", {"use_tf32": "1", "prefer_nhwc": "0"}),
        (
            {"cudnn_conv_algo_search": "heuristic", "prefer_nhwc": True},
            None,
            {"cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "1", "device_id": "3"},
        ),
    ],
)
def test_a_gpu_gets_the_settings_as_options_of_its_provider(
    tmp_path, monkeypatch, settings_, precision, wanted
):
    """onnxruntime refuses a name or a value that it does not know when it opens a file."""
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    opened_with = []

    def session(model, options, *, providers, provider_options, **rest):
        opened_with.extend(provider_options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnx_runtime, "providers", lambda: ["CUDAExecutionProvider", "CPU"])
    with jax.default_matmul_precision(precision):
        onnx_runtime.open_session(
            save(segmenter(), tmp_path), b"", options=config.Onnxruntime(**settings_), gpu=3
        )
    cuda, cpu = opened_with
    assert wanted.items() <= cuda.items()
    assert cpu == {}


SEVERAL_GPUS = """
import sys
sys.path.insert(0, "tests/support")
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from onnx_models import noise_images, save, segmenter
from pathlib import Path
from jaxdistill.teachers import onnx_device, onnx_session
from jaxdistill.teachers.onnx_graph import OnnxGraph

opened = []

class OnGpu(onnx_device.DeviceSession):
    def __init__(self, path, model, image, tensors, device=None, **rest):
        super().__init__(path, model, image, tensors, device, **rest)
        self.shares_gpu = self.on_gpu = True
        self._device = device or jax.devices()[0]
        opened.append(self._device)
        self.images = 0

    def __call__(self, images, chunk, layouts):
        assert images.devices() == {self._device}
        assert len(images) == chunk == 2
        self.images += len(images)
        return super().__call__(images, chunk, layouts)

alone = onnx_session.OnnxSession(OnnxGraph(Path(sys.argv[1])), ["mask", "deep"])
onnx_session.DeviceSession = OnGpu
session = onnx_session.OnnxSession(OnnxGraph(Path(sys.argv[1])), ["mask", "deep"])
mesh = Mesh(np.array(jax.devices()), ["data"])
divided = NamedSharding(mesh, PartitionSpec("data"))
images = noise_images(8, 8, 12)
for _ in range(2):
    maps = session(jax.device_put(images, divided))
assert opened == jax.devices(), opened
assert all(each.sharding == divided for each in maps)
for one, two in zip(maps, alone(jax.device_put(images)), strict=True):
    np.testing.assert_allclose(one, two, atol=1e-6)
print("compared")
"""


def test_each_gpu_of_a_process_has_a_session_and_computes_its_rows(tmp_path):
    run_on_devices(SEVERAL_GPUS, str(save(segmenter(), tmp_path)))


def test_cuda_is_asked_for_no_tf32_where_the_environment_forbids_it(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not onnx_runtime.rounds_to_tf32(config.Onnxruntime(use_tf32=True))
