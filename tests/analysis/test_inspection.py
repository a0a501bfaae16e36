"""`jaxdistill inspect`: what it finds out about networks of every form, and what it writes."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from onnx_models import parse, save, segmenter
from onnx_variants import variants
from PIL import Image

from jaxdistill import evaluation
from jaxdistill.analysis.inspection import configuration, inspect
from jaxdistill.commands import inspect as command
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.runtime.errors import command as run
from jaxdistill.teachers import Onnx

SIZE = (24, 32)
VARIANTS = variants()


def disc() -> np.ndarray:
    """A bright disc on dark ground."""
    rows, columns = np.ogrid[:48, :64]
    inside = (rows - 24) ** 2 + (columns - 30) ** 2 < 15**2
    return np.where(inside[..., None], (250, 200, 160), (20, 30, 40)).astype(np.uint8)


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
    kinds = {each.kind for each in found.readings}
    assert kinds == {variant.options.get("output", "logits")}
    if "uint8" in name and "argmax" not in name:
        assert [each.normalization for each in found.readings] == ["bytes"]
    best = next(found.candidates())
    keys = configuration(found, best)
    assert keys["size"] == list(SIZE)
    assert ("channel" in keys) == ("channel" in variant.options)
    teacher = Onnx(keys.pop("onnx"), **keys)  # whatever it says can be used as it is
    assert teacher.output_shapes(SIZE).logits == (*SIZE, 1)
    assert found.sheet().height > 24


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


def test_outputs_that_are_no_masks_are_named_as_such(tmp_path: Path) -> None:
    model = segmenter()
    for name in ("inner", "boxes"):
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[-1].name = name
        del model.graph.output[-1].type.tensor_type.shape.dim[:]
    model.graph.node.add(op_type="Flatten", input=["inner"], output=["boxes"])
    model.graph.output[-1].type.tensor_type.ClearField("shape")
    found = inspect(save(model, tmp_path), [disc()], size=SIZE)
    kinds = {each.tensor.name: each.kind for each in found.readings}
    assert kinds["boxes"] is None
    assert {each.tensor.name for each in found.candidates()} == {"mask", "inner"}
    assert [*kinds] == ["mask", "inner", "boxes"]


def test_the_command_prints_lines_that_work_and_writes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(VARIANTS["softmax of twenty"].model, tmp_path)
    Image.fromarray(disc()).save(tmp_path / "a.png")
    command.main([str(path), str(tmp_path / "a.png"), "--size", "24", "32"])
    printed = capsys.readouterr().out
    assert "'image' (N, 3, H, W) of float" in printed
    assert "'mask' (N, 20, H, W) of float" in printed
    picture = Image.open(tmp_path / "network.inspect.png")
    assert picture.width > 20 * 24
    lines = printed[printed.index("teacher:") :].split("\n\n")
    keys = yaml.safe_load(lines[0])["teacher"]
    assert (keys["output"], keys["channel"] in (3, 15, 16)) == ("probabilities", True)
    predictor = evaluation.load(keys.pop("onnx"), **keys)
    assert predictor.predict(disc()).shape == (48, 64)
    assert lines[1].startswith(f"jaxdistill predict {path} IMAGES")
    command.main([str(path)])
    assert "noise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{dir}/none.onnx"], "onnx-unreadable"),
        (["{net}", "{dir}/none.png"], "no-such-image"),
        (["{net}", "{net}"], "no-such-image"),
        (["{net}", "--size", "0", "5"], "input-size"),
        (["{net}", "--layout", "nhwc"], "onnx-layout"),
        (["{net}", "--output", "{net}/x.png"], "cannot-write"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(segmenter(), tmp_path)
    filled = [argument.format(net=path, dir=tmp_path) for argument in arguments]
    assert run(lambda: command.main(filled)) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"[{code}]")


def test_a_file_without_an_image_is_refused(tmp_path: Path) -> None:
    model = parse("net (float[N, 7] x) => (float[N, 7] y) { y = Abs (x) }")
    with pytest.raises(NetworkError) as caught:
        inspect(save(model, tmp_path), [])
    assert caught.value.code == "onnx-input"
