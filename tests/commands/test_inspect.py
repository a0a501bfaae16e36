"""`jaxdistill inspect`: what it prints and writes, and what it refuses."""

import shlex
from pathlib import Path

import onnx
import pytest
import yaml
from onnx_models import save, segmenter
from onnx_variants import disc, variants
from PIL import Image

from jaxdistill import evaluation
from jaxdistill.commands import inspect as command
from jaxdistill.runtime.errors import command as run


def test_the_command_prints_lines_that_work_and_writes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(variants()["softmax of twenty"].model, tmp_path)
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


def test_the_printed_command_names_a_tensor_that_looks_like_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = variants()["softmax of twenty"].model
    [output] = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["1962" if name == output.name else name for name in node.output]
    output.name = "1962"
    first = onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, ["N", 3, "H", "W"])
    model.graph.node.append(onnx.helper.make_node("Sub", ["image", "image"], ["first"]))
    model.graph.output.insert(0, first)
    Image.fromarray(disc()).save(tmp_path / "a.png")
    path = save(model, tmp_path)
    command.main([str(path), str(tmp_path / "a.png"), "--size", "24", "32"])
    [line] = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("jaxdistill predict")
    ]
    words = shlex.split(line)
    assert words[words.index("--tensor") + 1] == "1962"


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
