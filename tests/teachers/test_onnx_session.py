import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx_models import expected, parse, pictures, save, segmenter

from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxNetwork


def network(path, tensors=("mask",), size=None, image_size=(8, 12), threads=None):
    return OnnxNetwork(OnnxGraph(path), tensors, size, image_size, threads)


def refusal(path, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        network(path, *args, **kwargs)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fixed_batch", ["N", 1, 2, 5])
@pytest.mark.parametrize("fixed_size", [False, True])
def test_values_are_those_of_the_reference(tmp_path, fixed_batch, fixed_size):
    """Whatever the file's batch: three pictures go in, and three maps come out."""
    sides = (8, 12) if fixed_size else ("H", "W")
    images, tensors = pictures(3, 8, 12), ["mask", "deep", "inner"]
    frozen = network(save(segmenter(fixed_batch, *sides), tmp_path), tensors)
    assert frozen.size == (8, 12)
    assert frozen.shapes == ((4, 6, 1), (2, 3, 6), (4, 6, 4))
    wanted = expected(segmenter(), images.transpose(0, 3, 1, 2), tensors)
    for given_, wanted_, shape in zip(
        frozen(jnp.asarray(images)), wanted, frozen.shapes, strict=True
    ):
        assert given_.shape == (3, *shape)
        assert given_.dtype == jnp.float32
        np.testing.assert_allclose(given_, wanted_.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_half_precision_stays_inside(tmp_path):
    images = pictures(2, 8, 12)
    [mask] = network(save(segmenter(dtype="float16"), tmp_path))(jnp.asarray(images))
    assert mask.dtype == jnp.float32
    nchw = images.transpose(0, 3, 1, 2)
    [wanted] = expected(segmenter(), nchw, ["mask"])
    np.testing.assert_allclose(mask, wanted.transpose(0, 2, 3, 1), atol=5e-3)


def test_double_precision_comes_out_single(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] picture) => (double[N, 3, H, W] mask)
        { mask = Cast <to = 11> (picture) }""")
    images = pictures(2, 8, 12)
    [mask] = network(save(model, tmp_path))(jnp.asarray(images))
    assert mask.dtype == jnp.float32
    np.testing.assert_array_equal(mask, images)


@pytest.fixture
def batch_mean(tmp_path):
    """A network whose answer tells with which others a picture was given."""
    model = parse(
        """
        net (float[N, 3, H, W] picture) => (float[N, 3, H, W] mask)
        { mean = ReduceMean <axes = [0]> (picture)  mask = Sub (picture, mean) }"""
    )
    return network(save(model, tmp_path))


def test_on_a_cpu_pictures_go_one_by_one(batch_mean):
    assert batch_mean.provider == "CPUExecutionProvider"
    [mask] = batch_mean(jnp.asarray(pictures(3, 8, 12)))
    np.testing.assert_array_equal(mask, 0)


def test_as_on_a_gpu_a_batch_goes_at_once(batch_mean):
    batch_mean._chunk = None
    images = pictures(3, 8, 12)
    [mask] = batch_mean(jnp.asarray(images))
    np.testing.assert_allclose(mask, images - images.mean(0), atol=1e-6)


@pytest.mark.parametrize("shape", ["1, 3, -1, 12", "1, 3, 8, 12"])
def test_a_batch_that_is_fixed_within_is_found_out(tmp_path, batch_mean, shape):
    model = parse(
        f"""
        net (float[N, 3, H, W] picture) => (float[N, 3, H, W] mask)
        <int64[4] shape = {{{shape}}}>
        {{ mask = Reshape (picture, shape) }}"""
    )
    images = pictures(3, 8, 12)
    fixed = network(save(model, tmp_path))
    assert not fixed._takes_several()
    assert batch_mean._takes_several()
    [mask] = fixed(jnp.asarray(images))
    np.testing.assert_array_equal(mask, images)


def test_results_stay_when_the_network_runs_again(tmp_path):
    """They lie in onnxruntime's own memory, which it must not use again while they live."""
    frozen = network(save(segmenter(), tmp_path), ["inner"])
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

    frozen = network(save(segmenter(), tmp_path), ["inner", "mask"])
    monkeypatch.setattr(jax.dlpack, "from_dlpack", spy)
    frozen(jnp.asarray(pictures(3, 8, 12)))
    assert len(addresses) == 6
    assert all(theirs == ours for theirs, ours in addresses)


def test_threads_are_bounded(tmp_path):
    frozen = network(save(segmenter(), tmp_path), threads=1)
    assert frozen._session.get_session_options().intra_op_num_threads == 1


def test_weights_beside_the_file_are_found_from_anywhere(tmp_path, monkeypatch):
    path = tmp_path / "network.onnx"
    onnx.save(segmenter(), path, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = pictures(1, 8, 12)
    [mask] = network(path)(jnp.asarray(images))
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
def test_the_size_is_the_files_else_the_asked_else_the_pictures(tmp_path, file, asked, size):
    assert network(save(segmenter("N", *file), tmp_path), size=asked).size == size


@pytest.mark.parametrize(
    ("file", "shown"), [((20, 24), "20 x 24"), ((20, "W"), "20 x any"), (("H", 24), "any x 24")]
)
def test_two_sizes_that_disagree_are_both_shown(tmp_path, file, shown):
    message = refusal(save(segmenter("N", *file), tmp_path), size=(8, 12))
    assert f"fixed to {shown}" in message
    assert "the configured size is 8 x 12" in message


def test_a_tensor_that_is_no_map_is_refused_with_its_shape(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] picture) => (float[N, c] mask) { mask = Flatten (picture) }""")
    assert "'mask' to have the shape (N, C, h, w)" in refusal(save(model, tmp_path))
    assert "it has (1, 288)" in refusal(save(model, tmp_path))


def test_a_tensor_of_integers_is_refused(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] picture) => (int64[N, 1, H, W] mask)
        { mask = ArgMax <axis = 1> (picture) }""")
    assert "'mask' is a tensor(int64)" in refusal(save(model, tmp_path))


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] picture) => (float[N, 3, h, w] mask) <float[4] scale = {1, 1, 2, 2}>
        { half = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (picture)
          twice = Resize <mode = "nearest"> (half, , scale)
          mask = Add (picture, twice) }""")
    path = save(model, tmp_path)
    assert network(path, image_size=(8, 12)).shapes == ((8, 12, 3),)
    assert "cannot run it on pictures of 9 x 13" in refusal(path, image_size=(9, 13))


def test_an_operation_that_onnxruntime_lacks_is_named(tmp_path, capfd):
    model = parse("""
        net (float[N, 3, H, W] picture) => (float[N, 3, H, W] mask)
        { mask = f.Mystery (picture) }""")
    assert "Mystery" in refusal(save(model, tmp_path))
    assert capfd.readouterr() == ("", "")


FLIPPED = segmenter(1, 8, 12).SerializeToString()


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
        network(path, OnnxGraph(path).outputs[:1])
    except UserError as error:
        complaint = str(error)
    assert "\n" not in complaint


def test_a_real_networks_inner_tensor_equals_the_uncut_one(shared):
    path = shared("models", "u2netp.onnx")
    whole = onnx.load(path)
    whole.graph.output.append(onnx.helper.make_empty_tensor_value_info("1429"))
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    images = pictures(1, 320, 320)
    [wanted] = session.run(["1429"], {"input.1": images.transpose(0, 3, 1, 2)})
    assert wanted.shape == (1, 64, 40, 40)

    frozen = network(path, ["1429"], image_size=(640, 640))
    assert frozen.shapes == ((40, 40, 64),)
    [features] = frozen(jnp.asarray(images))
    np.testing.assert_array_equal(features, wanted.transpose(0, 2, 3, 1))
