import hashlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_models import WEIGHTS, expected, noise_images, parse, save, segmenter

from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.network_format import ImageInput
from jaxdistill.teachers.onnx_graph import OnnxGraph

NCHW = noise_images(2, 8, 12).transpose(0, 3, 1, 2)


def run_cut(path, tensors):
    cut = OnnxGraph(path).cut(tensors)
    return ReferenceEvaluator(ModelProto.FromString(cut.model)).run(None, {cut.input.name: NCHW})


def refuse(path, code, tensors=("mask",)):
    """Asserts that cutting the file is refused, and returns the message."""
    with pytest.raises(NetworkError) as caught:
        OnnxGraph(path).cut(tensors)
    assert caught.value.code == code
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "tensors", [["mask"], ["inner"], ["deep", "inner"], ["mask", "low", "score"]]
)
@pytest.mark.parametrize("weights_are_inputs", [False, True])
def test_a_cut_gives_what_the_whole_graph_gives(tmp_path, tensors, weights_are_inputs):
    model = segmenter(ir_version=3 if weights_are_inputs else 8)
    if weights_are_inputs:  # as the format demanded before its version 4
        for name, shape in WEIGHTS.items():
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    wanted = expected(model, NCHW, tensors)
    for given_, wanted_ in zip(run_cut(save(model, tmp_path), tensors), wanted, strict=True):
        np.testing.assert_array_equal(given_, wanted_)


def test_a_cut_keeps_only_what_is_needed(tmp_path):
    cut = ModelProto.FromString(OnnxGraph(save(segmenter(), tmp_path)).cut(["inner"]).model)
    assert [node.op_type for node in cut.graph.node] == ["Conv", "Relu"]
    assert [tensor.name for tensor in cut.graph.initializer] == ["low_weight"]
    assert [output.name for output in cut.graph.output] == ["inner"]


def test_layers_after_the_cut_may_be_anything(tmp_path):
    model = segmenter()
    model.graph.node.add(op_type="NobodyKnowsThisLayer", input=["mask"], output=["boxes"])
    path = save(model, tmp_path)
    [inner] = run_cut(path, ["inner"])
    np.testing.assert_array_equal(inner, expected(segmenter(), NCHW, ["inner"])[0])
    assert "NobodyKnowsThisLayer" in refuse(path, "onnx-invalid", ["boxes"])


def test_branches_keep_what_they_take_from_around_them(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask)
        <bool yes = {1}, float[1] two = {2}, float[1] unused = {9}>
        {
            taken = Mul (image, two)
            after = Mul (image, unused)
            inner = If (yes) <
                then_branch = then () => (float[N, 3, H, W] doubled) { doubled = Neg (taken) },
                else_branch = otherwise () => (float[N, 3, H, W] same) { same = Identity (taken) }
            >
            mask = Add (inner, after)
        }""")
    path = save(model, tmp_path)
    [inner] = run_cut(path, ["inner"])
    np.testing.assert_array_equal(inner, -2 * NCHW)
    cut = ModelProto.FromString(OnnxGraph(path).cut(["inner"]).model)
    assert {tensor.name for tensor in cut.graph.initializer} == {"yes", "two"}


def test_functions_of_the_file_are_kept(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask)
        { inner = f.twice (image)  mask = Neg (inner) }
        <opset_import: ["" : 17], domain: "f"> twice (a) => (b) { b = Add (a, a) }""")
    [inner] = run_cut(save(model, tmp_path), ["inner"])
    np.testing.assert_array_equal(inner, 2 * NCHW)


@given(st.data())
def test_any_graph_is_cut_anywhere(tmp_path_factory, data):
    """Random graphs of unary and binary layers; whichever tensor is asked for comes out equal."""
    names, nodes = ["image"], []
    for index in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(["Neg", "Abs", "Add", "Max"]))
        arity = 1 if kind in ("Neg", "Abs") else 2
        inputs = [data.draw(st.sampled_from(names)) for _ in range(arity)]
        names.append(f"t{index}")
        nodes.append(helper.make_node(kind, inputs, [f"t{index}"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"])
        for name in ("image", names[-1])
    ]
    model = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:]), ir_version=8)
    tensors = data.draw(st.lists(st.sampled_from(names[1:]), min_size=1, unique=True))
    path = save(model, tmp_path_factory.mktemp("graph"))
    wanted = expected(model, NCHW, tensors)
    for given_, wanted_ in zip(run_cut(path, tensors), wanted, strict=True):
        np.testing.assert_array_equal(given_, wanted_)


@pytest.mark.parametrize(
    ("sides", "image"),
    [
        (("N", "H", "W"), ImageInput("image", "float32", None, None, None)),
        ((1, 320, 320), ImageInput("image", "float32", 1, 320, 320)),
        ((4, 320, "W"), ImageInput("image", "float32", 4, 320, None)),
    ],
)
def test_the_image_input_is_read_from_the_file(tmp_path, sides, image):
    assert OnnxGraph(save(segmenter(*sides), tmp_path)).cut(["mask"]).input == image


def test_half_precision_images_are_accepted(tmp_path):
    model = segmenter(dtype="float16")
    assert OnnxGraph(save(model, tmp_path)).cut(["mask"]).input.dtype == "float16"


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("float[N, 1, H, W] image", "'image' (N, 1, H, W) of float"),
        ("float[3, H, W] image", "'image' (3, H, W) of float"),
        ("int32[N, 3, H, W] image", "'image' (N, 3, H, W) of int32"),
        (
            "float[N, 3, H, W] image, float[2] scale",
            "'image' (N, 3, H, W) of float, 'scale' (2) of float",
        ),
    ],
)
def test_other_inputs_are_refused_and_named(tmp_path, head, found):
    body = "mask = Add (image, scale)" if "scale" in head else "mask = Abs (image)"
    path = save(parse(f"net ({head}) => (float[n] mask) {{ {body} }}"), tmp_path)
    assert found in refuse(path, "onnx-input")


def test_an_input_of_later_layers_alone_does_no_harm(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image, float[1] scale) => (float[N, 3, H, W] mask)
        { inner = Abs (image)  mask = Mul (inner, scale) }""")
    assert OnnxGraph(save(model, tmp_path)).cut(["inner"]).input.name == "image"


def test_a_tensor_that_depends_on_no_image_is_refused(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask) <float[1] two = {2}>
        { mask = Abs (image)  always = Abs (two) }""")
    refuse(save(model, tmp_path), "onnx-input", ["always"])


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    message = refuse(save(segmenter(), tmp_path), "onnx-unknown-tensor", ["scores"])
    assert "'score'" in message
    assert "'mask'" in message


def test_missing_files_and_folders_are_named(tmp_path):
    refuse(tmp_path / "none.onnx", "onnx-unreadable")
    refuse(tmp_path, "onnx-unreadable")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<html>404</html>", bytes(999)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "network.onnx"
    path.write_bytes(content)
    refuse(path, "onnx-damaged")


@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path_factory, share):
    whole = segmenter().SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "network.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(NetworkError):
        OnnxGraph(path).cut(["mask"])


def test_names_that_are_no_text_are_refused(tmp_path):
    content = segmenter().SerializeToString()
    path = tmp_path / "network.onnx"
    path.write_bytes(content.replace(b"mask", b"\xff\n\xfe\xff"))
    refuse(path, "onnx-damaged")


class TestWeightsBesideTheFile:
    @pytest.fixture
    def path(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        path = folder / "network.onnx"
        onnx.save(
            segmenter(),
            path,
            save_as_external_data=True,
            location="network.data",
            size_threshold=0,
        )
        assert path.with_name("network.data").stat().st_size > 0
        return path

    def move_weights(self, path, location):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            [entry] = [entry for entry in tensor.external_data if entry.key == "location"]
            entry.value = str(location)
        return save(model, path.parent)

    def test_are_left_where_they_are(self, path):
        graph = OnnxGraph(path)
        cut = ModelProto.FromString(graph.cut(["inner"]).model)
        [tensor] = cut.graph.initializer
        assert tensor.data_location == TensorProto.EXTERNAL

    def test_count_in_the_fingerprint(self, path):
        before = OnnxGraph(path).fingerprint
        assert OnnxGraph(path).fingerprint == before
        data = path.with_name("network.data")
        data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
        assert OnnxGraph(path).fingerprint != before

    @pytest.mark.parametrize("location", ["../secret.data", "sub/../../secret.data", "absolute"])
    def test_outside_the_folder_are_refused(self, path, location):
        secret = path.parents[2] / "secret.data"
        path.with_name("network.data").rename(secret)
        moved = self.move_weights(path, secret if location == "absolute" else location)
        refuse(moved, "onnx-external-weights")

    def test_reached_through_a_link_are_refused(self, path):
        data, secret = path.with_name("network.data"), path.parents[2] / "secret.data"
        data.rename(secret)
        data.symlink_to(secret)
        refuse(path, "onnx-external-weights")

    def test_of_a_branch_are_looked_at_too(self, tmp_path):
        model = parse("""
            net (float[N, 3, H, W] image) => (float[N, 3, H, W] mask) <bool yes = {1}>
            { mask = If (yes) <
                then_branch = a () => (float[N, 3, H, W] b) {
                    c = Constant <value = float[1] {1}> ()  b = Add (image, c) },
                else_branch = d () => (float[N, 3, H, W] e) { e = Neg (image) }> }""")
        [branch] = [a.g for a in model.graph.node[0].attribute if a.name == "then_branch"]
        tensor = branch.node[0].attribute[0].t
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        assert "'/etc/passwd'" in refuse(save(model, tmp_path), "onnx-external-weights")

    def test_missing_or_short_are_refused(self, path):
        data = path.with_name("network.data")
        data.write_bytes(data.read_bytes()[:-1])
        with pytest.raises(NetworkError, match=r"network\.data") as caught:
            OnnxGraph(path)
        assert caught.value.code == "onnx-external-weights"
        data.unlink()
        refuse(path, "onnx-external-weights")

    @pytest.mark.parametrize("offset", ["-1", "many"])
    def test_at_an_impossible_place_are_refused(self, path, offset):
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "offset":
                entry.value = offset
        refuse(save(model, path.parent), "onnx-external-weights")


def test_the_fingerprint_is_what_sha256sum_says(tmp_path):
    path = save(segmenter(), tmp_path)
    assert OnnxGraph(path).fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_real_network_of_an_old_format_is_cut(shared):
    graph = OnnxGraph(shared("models", "u2netp.onnx"))
    assert graph.outputs[0] == "1959"
    cut = graph.cut(["1429"])
    assert cut.input == ImageInput("input.1", "float32", 1, 320, 320)
    model = ModelProto.FromString(cut.model)
    assert model.ir_version == 6
    assert len(model.graph.node) < len(onnx.load(graph.path).graph.node)
    with pytest.raises(NetworkError) as caught:
        graph.cut(["14299"])
    assert caught.value.code == "onnx-unknown-tensor"


def test_nodes_in_any_order_are_sorted(tmp_path):
    """Converters to float16 append the cast of the input to the end."""
    model = segmenter()
    nodes = [*model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    [mask] = run_cut(save(model, tmp_path), ["mask"])
    np.testing.assert_array_equal(mask, expected(segmenter(), NCHW, ["mask"])[0])


def test_a_circle_of_nodes_is_refused(tmp_path):
    model = segmenter()
    model.graph.node[1].input[0] = "score"
    refuse(save(model, tmp_path), "onnx-input")  # which does not reach the circle


@pytest.mark.parametrize("axes", [("N", "C", "H", "W"), (None,) * 4, None])
def test_a_free_channel_axis_is_3(tmp_path, axes):
    model = segmenter()
    image = model.graph.input[0]
    image.CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, axes))
    path = save(model, tmp_path)
    assert OnnxGraph(path).cut(["mask"]).input == ImageInput("image", "float32", None, None, None)
    [mask] = run_cut(path, ["mask"])
    np.testing.assert_array_equal(mask, expected(segmenter(), NCHW, ["mask"])[0])
    assert OnnxGraph(path).image_nodes()


def test_other_channels_are_refused(tmp_path):
    model = segmenter()
    shape = ["N", 4, "H", "W"]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    refuse(save(model, tmp_path), "onnx-input")
