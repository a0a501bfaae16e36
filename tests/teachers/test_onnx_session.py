import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx_models import expected, noise_images, parse, save, segmenter
from onnx_sessions import as_on_a_gpu, opened

from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.onnx_device import DeviceSession
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession


def refuse(path, code, *args, **kwargs):
    """Asserts that opening or trying the file is refused, and returns the message."""
    with pytest.raises(NetworkError) as caught:
        opened(path, *args, **kwargs)
    assert caught.value.code == code
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fixed_batch", ["N", 1, 2, 5])
@pytest.mark.parametrize("fixed_size", [False, True])
def test_values_are_those_of_the_reference(tmp_path, fixed_batch, fixed_size):
    """Whatever the file's batch: three images go in, and three maps come out."""
    sides = (8, 12) if fixed_size else ("H", "W")
    images, tensors = noise_images(3, 8, 12), ["mask", "deep", "inner"]
    frozen = opened(save(segmenter(fixed_batch, *sides), tmp_path), tensors)
    assert frozen.input_size((8, 12)) == (8, 12)
    shapes = frozen.shapes((8, 12))
    assert shapes == ((4, 6, 1), (2, 3, 6), (4, 6, 4))
    wanted = expected(segmenter(), images.transpose(0, 3, 1, 2), tensors)
    for given_, wanted_, shape in zip(frozen(jnp.asarray(images)), wanted, shapes, strict=True):
        assert given_.shape == (3, *shape)
        assert given_.dtype == jnp.float32
        np.testing.assert_allclose(given_, wanted_.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_half_precision_stays_inside(tmp_path):
    images = noise_images(2, 8, 12)
    [mask] = opened(save(segmenter(dtype="float16"), tmp_path))(jnp.asarray(images))
    assert mask.dtype == jnp.float32
    nchw = images.transpose(0, 3, 1, 2)
    [wanted] = expected(segmenter(), nchw, ["mask"])
    np.testing.assert_allclose(mask, wanted.transpose(0, 2, 3, 1), atol=5e-3)


def test_double_precision_comes_out_single(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (double[N, 3, H, W] mask)
        { mask = Cast <to = 11> (image) }""")
    images = noise_images(2, 8, 12)
    [mask] = opened(save(model, tmp_path))(jnp.asarray(images))
    assert mask.dtype == jnp.float32
    np.testing.assert_array_equal(mask, images)


@pytest.fixture
def batch_mean(tmp_path):
    """A network whose answer tells with which others a image was given."""
    model = parse(
        """
        net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask)
        { mean = ReduceMean <axes = [0]> (image)  mask = Sub (image, mean) }"""
    )
    return opened(save(model, tmp_path))


def test_on_a_cpu_images_go_one_by_one(on_a_cpu, batch_mean):
    assert batch_mean.provider == "CPUExecutionProvider"
    [mask] = batch_mean(jnp.asarray(noise_images(3, 8, 12)))
    np.testing.assert_array_equal(mask, 0)


@pytest.fixture
def batches_run(monkeypatch):
    """Returns the batch sizes that onnxruntime is given, probes included."""
    sizes = []

    def spy(self, images, *args, run=DeviceSession._run):
        sizes.append(len(images))
        return run(self, images, *args)

    monkeypatch.setattr(DeviceSession, "_run", spy)
    return sizes


def test_as_on_a_gpu_a_batch_goes_at_once(batch_mean):
    images = noise_images(3, 8, 12)
    [mask] = as_on_a_gpu(batch_mean)(jnp.asarray(images))
    np.testing.assert_allclose(mask, images - images.mean(0), atol=1e-6)


def test_as_on_a_gpu_there_is_one_batch_size_and_one_probe(tmp_path, batches_run):
    """Each batch size costs a search for cuDNN's algorithms, a probe at another size as well."""
    session = as_on_a_gpu(OnnxSession(OnnxGraph(save(segmenter(), tmp_path)), ["mask"]))
    session.set_batch_size(4)
    session.shapes((8, 12))
    images = noise_images(6, 8, 12)
    wanted = expected(segmenter(), images.transpose(0, 3, 1, 2), ["mask"])[0]
    for count in (4, 1, 6):  # a whole batch, what a cache lacks, and more than a batch
        [mask] = session(jnp.asarray(images[:count]))
        np.testing.assert_allclose(mask, wanted[:count].transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
    session.set_batch_size(8)
    session(jnp.asarray(images))
    assert batches_run == [4, 4, 4, 4, 4, 4, 4]  # the first one is the probe


def test_as_on_a_gpu_the_first_batch_decides_on_the_batch_size(tmp_path, batches_run):
    session = as_on_a_gpu(OnnxSession(OnnxGraph(save(segmenter(), tmp_path)), ["mask"]))
    session.shapes((8, 12))
    for count in (3, 2):
        session(jnp.asarray(noise_images(count, 8, 12)))
    assert batches_run == [1, 3, 3, 3]


@pytest.mark.parametrize("shape", ["1, 3, -1, 12", "1, 3, 8, 12"])
def test_a_batch_that_is_fixed_within_is_found_out(tmp_path, batches_run, shape):
    model = parse(
        f"""
        net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask)
        <int64[4] shape = {{{shape}}}>
        {{ mask = Reshape (image, shape) }}"""
    )
    images = noise_images(3, 8, 12)
    fixed = as_on_a_gpu(OnnxSession(OnnxGraph(save(model, tmp_path)), ["mask"]))
    [mask] = fixed(jnp.asarray(images))
    np.testing.assert_array_equal(mask, images)
    assert batches_run == [3, 1, 1, 1, 1]


def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path, monkeypatch):
    tried = []

    def probe(self, images, *args, run=DeviceSession.probe):
        tried.append(len(images))
        if len(images) > 2:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
        return run(self, images, *args)

    monkeypatch.setattr(DeviceSession, "probe", probe)
    session = as_on_a_gpu(OnnxSession(OnnxGraph(save(segmenter(), tmp_path)), ["mask"]))
    session.set_batch_size(8)
    session.shapes((8, 12))
    assert tried == [8, 4, 2]


def test_weights_beside_the_file_are_found_from_anywhere(tmp_path, monkeypatch):
    path = tmp_path / "network.onnx"
    onnx.save(segmenter(), path, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = noise_images(1, 8, 12)
    [mask] = opened(path)(jnp.asarray(images))
    [wanted] = expected(segmenter(), images.transpose(0, 3, 1, 2), ["mask"])
    np.testing.assert_allclose(mask, wanted.transpose(0, 2, 3, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "asked", "size"),
    [
        (("H", "W"), None, (8, 12)),
        (("H", "W"), (16, 4), (16, 4)),
        ((20, 24), None, (20, 24)),
        ((20, 24), (20, 24), (20, 24)),
        ((20, "W"), None, (20, 12)),
        (("H", 24), (16, 24), (16, 24)),
    ],
)
def test_the_size_is_the_files_else_the_asked_else_the_noise_images(tmp_path, file, asked, size):
    session = opened(save(segmenter("N", *file), tmp_path), size=asked)
    assert session.input_size((8, 12)) == size


@pytest.mark.parametrize(
    ("file", "shown"), [((20, 24), "20 x 24"), ((20, "W"), "20 x any"), (("H", 24), "any x 24")]
)
def test_two_sizes_that_disagree_are_both_shown(tmp_path, file, shown):
    message = refuse(save(segmenter("N", *file), tmp_path), "onnx-size", size=(8, 12))
    assert shown in message
    assert "8 x 12" in message


def test_a_tensor_that_is_no_map_is_refused_with_its_shape(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, c] mask) { mask = Flatten (image) }""")
    assert "(1, 288)" in refuse(save(model, tmp_path), "onnx-tensor-shape")


def test_a_tensor_of_integers_is_refused(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (int64[N, 1, H, W] mask)
        { mask = ArgMax <axis = 1> (image) }""")
    assert "tensor(int64)" in refuse(save(model, tmp_path), "onnx-tensor-type")


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 3, h, w] mask) <float[4] scale = {1, 1, 2, 2}>
        { half = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (image)
          twice = Resize <mode = "nearest"> (half, , scale)
          mask = Add (image, twice) }""")
    path = save(model, tmp_path)
    assert opened(path, image_size=(8, 12)).shapes((8, 12)) == ((8, 12, 3),)
    assert "9 x 13" in refuse(path, "onnx-run", image_size=(9, 13))


def test_an_operation_that_onnxruntime_lacks_is_named(tmp_path, capfd):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask)
        { mask = f.Mystery (image) }""")
    assert "Mystery" in refuse(save(model, tmp_path), "onnx-open")
    assert capfd.readouterr() == ("", "")


FLIPPED = segmenter(1, 8, 12).SerializeToString()


def test_another_image_size_is_tried_too(on_a_cpu, tmp_path):
    session = opened(save(segmenter(), tmp_path))
    [mask] = session(jnp.asarray(noise_images(2, 16, 20)))
    assert mask.shape == (2, 8, 10, 1)
    assert session.known_shapes == {(8, 12): ((4, 6, 1),), (16, 20): ((8, 10, 1),)}


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, len(FLIPPED) - 1), st.integers(0, 255)), min_size=1, max_size=8
    )
)
@example([(18, 128)])  # the checker refuses it without a word
def test_damaged_bytes_are_refused_or_run(tmp_path_factory, flips):
    content = bytearray(FLIPPED)
    for place, value in flips:
        content[place] = value
    path = tmp_path_factory.mktemp("flips") / "network.onnx"
    path.write_bytes(bytes(content))
    complaint = ""
    try:
        opened(path, OnnxGraph(path).outputs[:1])
    except NetworkError as error:
        complaint = str(error)
    assert "\n" not in complaint


def test_a_real_networks_inner_tensor_equals_the_uncut_one(shared):
    path = shared("models", "u2netp.onnx")
    whole = onnx.load(path)
    whole.graph.output.append(onnx.helper.make_empty_tensor_value_info("1429"))
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    images = noise_images(1, 320, 320)
    [wanted] = session.run(["1429"], {"input.1": images.transpose(0, 3, 1, 2)})
    assert wanted.shape == (1, 64, 40, 40)

    frozen = opened(path, ["1429"], image_size=(640, 640))
    assert frozen.shapes(frozen.input_size((640, 640))) == ((40, 40, 64),)
    [features] = frozen(jnp.asarray(images))
    np.testing.assert_array_equal(features, wanted.transpose(0, 2, 3, 1))
