"""What is found out about networks of every form."""

from pathlib import Path

import pytest
from onnx_models import parse, save, segmenter
from onnx_variants import disc, variants
from refused import refused

from jaxdistill.analysis import inspection_sheet
from jaxdistill.analysis.network_inspection import configuration, inspect
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers import Onnx

SIZE = (24, 32)
VARIANTS = variants()


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "NHWC in and out",
        "(N, H, W)",
        "uint8 NHWC",
        "softmax of two",
        "softmax logits of two",
        "argmax",
        "argmax as uint8",
        "named axes, NHWC",
        "batch of 4, NHWC",
        "float16",
    ],
)
def test_what_the_file_says_and_what_its_values_look_like(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    path = save(variant.model, tmp_path)
    layout = variant.options.get("layout")
    found = inspect(path, [disc()], layout=layout, size=SIZE)
    kinds = {each.kind for each in found.tried}
    assert kinds == {variant.options.get("output", "logits")}
    if "uint8" in name and "argmax" not in name:
        assert [each.normalization for each in found.tried] == ["bytes"]
    best = next(found.candidates())
    keys = configuration(found, best)
    assert keys["size"] == list(SIZE)
    assert ("channel" in keys) == ("channel" in variant.options)
    teacher = Onnx(keys.pop("onnx"), **keys)  # whatever it says can be used as it is
    assert teacher.output_shapes(SIZE).logits == (*SIZE, 1)
    assert inspection_sheet.draw(found).height > 24


def test_pixels_of_a_network_that_takes_bytes_are_found_out(tmp_path: Path) -> None:
    """Its mask is certain for pixels in [0, 255] alone."""
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 1, H, W] mask)
        <float level = {128}, float factor = {0.1}, int64[1] axis = {1}>
        { mean = ReduceMean <axes = [1]> (image)  above = Sub (mean, level)
          score = Mul (above, factor)  mask = Sigmoid (score) }""")
    found = inspect(save(model, tmp_path), [disc()], size=SIZE)
    best = next(found.candidates())
    assert (best.normalization, best.kind) == ("bytes", "probabilities")


@pytest.mark.parametrize(("factor", "best"), [(0.0101, "mask"), (1.0, "side")])
def test_of_outputs_that_are_alike_the_first_one_is_the_best(
    tmp_path: Path, factor: float, best: str
) -> None:
    """The second one is more certain: hardly, as with deep supervision, or much."""
    model = parse(f"""
        net (float[N, 3, H, W] image) => (float[N, 1, H, W] mask, float[N, 1, H, W] side)
        <float level = {{128}}, float factor = {{0.01}}, float more = {{{factor}}},
         int64[1] axis = {{1}}>
        {{ mean = ReduceMean <axes = [1]> (image)  above = Sub (mean, level)
           score = Mul (above, factor)  mask = Sigmoid (score)
           other = Mul (above, more)  side = Sigmoid (other) }}""")
    found = inspect(save(model, tmp_path), [disc()], normalization="bytes", size=SIZE)
    assert next(found.candidates()).tensor.name == best


def test_outputs_that_are_no_masks_are_named_as_such(tmp_path: Path) -> None:
    model = segmenter()
    for name in ("inner", "boxes"):
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[-1].name = name
        del model.graph.output[-1].type.tensor_type.shape.dim[:]
    model.graph.node.add(op_type="Flatten", input=["inner"], output=["boxes"])
    model.graph.output[-1].type.tensor_type.ClearField("shape")
    found = inspect(save(model, tmp_path), [disc()], size=SIZE)
    kinds = {each.tensor.name: each.kind for each in found.tried}
    assert kinds["boxes"] is None
    assert {each.tensor.name for each in found.candidates()} == {"mask", "inner"}
    assert [*kinds] == ["mask", "inner", "boxes"]


def test_the_tensor_is_named_where_the_first_output_cannot_be_used(tmp_path: Path) -> None:
    """The first output depends on a second input, but is the mask unless another one is named."""
    model = parse("""
        net (float[N, 3, H, W] image, float[M] x) => (float[M] y, float[N, 1, H, W] mask)
        <int64[1] axis = {1}>
        { y = Abs (x)  mask = ReduceMean <axes = [1]> (image) }""")
    found = inspect(save(model, tmp_path), [disc()], size=SIZE)
    assert configuration(found, next(found.candidates()))["tensor"] == "mask"


def test_outputs_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    model = parse("""
        net (float[N, 3, H, W] image) => (seq(float[N, 1, H, W]) all, float[N, 1, H, W] mask)
        <int64[1] axis = {1}>
        { mask = ReduceMean <axes = [1]> (image)  all = SequenceConstruct (mask) }""")
    found = inspect(save(model, tmp_path), [disc()], size=SIZE)
    assert {each.tensor.name for each in found.tried} == {"mask"}
    assert configuration(found, next(found.candidates()))["tensor"] == "mask"
    del model.graph.output[1]
    with refused(NetworkError, "onnx-tensor-type", "seq(tensor(float))"):
        inspect(save(model, tmp_path), [disc()], size=SIZE)


def test_a_file_without_an_image_is_refused(tmp_path: Path) -> None:
    model = parse("net (float[N, 7] x) => (float[N, 7] y) { y = Abs (x) }")
    with pytest.raises(NetworkError) as caught:
        inspect(save(model, tmp_path), [])
    assert caught.value.code == "onnx-input"
