"""The mean of exported networks, against members that are run one by one with OpenCV's resizing."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from refused import refused

from jaxdistill import __main__, exporters, models
from jaxdistill.evaluation import load
from jaxdistill.exporters import mean as mean_lib
from jaxdistill.exporters.mean_graph import Member, read_member
from jaxdistill.runtime.errors import ConfigError, ExportError, NetworkError, OutputError

SMALL, LARGE = (32, 48), (64, 80)
IMAGE = cv2.resize(
    np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8), LARGE[::-1]
)  # blurred noise


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One student at two sizes and at free sizes, and another one, in different forms."""
    folder = tmp_path_factory.mktemp("members")
    student = models.create("mediapipe-selfie", encoder="mediapipe-selfie", frozen=(), seed=1)
    other = models.create("light-unet", encoder="mobilenetv3_small_050", frozen=(), seed=2)
    forms = {
        "small": (student, {"input": "unit", "sigmoid": True, "size": SMALL}),
        "large": (student, {"input": "unit", "sigmoid": True, "size": LARGE}),
        "free": (student, {"input": "unit", "sigmoid": True}),
        "other": (other, {"size": (64, 96)}),  # normalised by the caller, and logits
        "bytes": (other, {"input": "uint8", "size": (64, 96)}),
    }
    for name, (source, options) in forms.items():
        exporters.export(source, folder / f"{name}.onnx", **options)
    return {name: folder / f"{name}.onnx" for name in forms}


def members(files: dict[str, Path], *names: str) -> list[Member]:
    return [
        read_member(files[name.removesuffix("|")], mirrored=name.endswith("|")) for name in names
    ]


def alone(file: Path, size: tuple[int, int], *, mirrored: bool) -> np.ndarray:
    """The probabilities of a member, at the size of `IMAGE`."""
    x = cv2.resize(IMAGE.astype(np.float32) / 255, size[::-1])
    x = x[:, ::-1] if mirrored else x
    about = json.loads(file.with_suffix(".json").read_text())
    if about["normalization"]["done by"] == "the caller":
        x = (x - about["normalization"]["mean"]) / about["normalization"]["std"]
    session = onnxruntime.InferenceSession(file)
    given = np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)
    y = session.run(None, {"image": given})[0][0, 0]
    if about["output"]["range"] == "logits":
        y = 1 / (1 + np.exp(-y))
    return cv2.resize(y[:, ::-1] if mirrored else y, LARGE[::-1])


@pytest.mark.parametrize("form", ["unit", "uint8"])
def test_it_is_the_mean_of_the_members(files, tmp_path: Path, form) -> None:
    path = tmp_path / "mean.onnx"
    mean_lib.average(members(files, "small", "large|", "other|"), path, size=LARGE, input=form)
    parts = [
        alone(files["small"], SMALL, mirrored=False),
        alone(files["large"], LARGE, mirrored=True),
        alone(files["other"], (64, 96), mirrored=True),
    ]
    given = IMAGE[None]
    if form == "unit":
        given = np.ascontiguousarray((IMAGE / 255).transpose(2, 0, 1)[None], np.float32)
    found = onnxruntime.InferenceSession(path).run(None, {"image": given})[0][0, 0]
    np.testing.assert_allclose(found, np.mean(parts, 0), atol=1e-5)
    assert np.ptp([part.mean() for part in parts]) > 1e-3  # so that a missing one would show
    # What the file says of itself is enough to predict with it.
    predicted = load(path).predict(IMAGE, soft=True)
    np.testing.assert_allclose(predicted.squeeze(), found, atol=1e-5)


def test_several_images_are_independent(files, tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    mean_lib.average(members(files, "small|", "large"), path)
    session = onnxruntime.InferenceSession(path)
    batch = np.random.default_rng(0).random((3, 3, *LARGE), np.float32)
    together = session.run(None, {"image": batch})[0]
    single = [session.run(None, {"image": each[None]})[0] for each in batch]
    np.testing.assert_allclose(together, np.concatenate(single), atol=1e-5)


def test_common_weights_are_stored_once_and_the_card_names_the_members(
    files, tmp_path: Path
) -> None:
    path = tmp_path / "mean.onnx"
    mean_lib.average(members(files, "small", "large", "large|"), path)
    assert path.stat().st_size < 1.5 * files["large"].stat().st_size
    card = json.loads(path.with_suffix(".json").read_text())
    assert [one["file"] for one in card["student"]["mean of"]] == [
        "small.onnx",
        "large.onnx",
        "large.onnx",
    ]
    assert [one["mirrored"] for one in card["student"]["mean of"]] == [False, False, True]
    assert card["student"]["weights"] == 106_401
    mean_lib.average(members(files, "small", "large"), path)  # an earlier mean is replaced


def test_free_members_have_the_size_that_is_asked_for(files, tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    with refused(ConfigError, "mean-size"):
        mean_lib.average(members(files, "free", "free|"), path)
    with refused(ConfigError, "mean-size"):  # no multiple of the stride
        mean_lib.average(members(files, "free", "free|"), path, size=(40, 64))
    mean_lib.average(members(files, "free", "free|"), path, size=(32, 64))
    [image] = onnx.load(path).graph.input
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim[2:]] == [32, 64]


def test_what_cannot_be_a_mean_is_refused_and_nothing_is_written(files, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    model = onnx.load(files["small"])
    model.producer_name = "another"
    onnx.save(model, foreign)
    for path in (foreign, files["bytes"]):
        with refused(NetworkError, "not-a-member"):
            read_member(path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "own.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    two = members(files, "small", "large")
    for some, output, error, code in (
        (two[:1], "mean.onnx", ConfigError, "too-few-members"),
        (two, "mean.tflite", ConfigError, "mean-ending"),
        (two, "folder.onnx", OutputError, "output-exists"),
        (two, "own.onnx", OutputError, "output-exists"),
    ):
        with refused(error, code):
            mean_lib.average(some, tmp_path / output)
    for output in (files["small"], files["other"]):  # a member, and an export of the user's
        content = output.read_bytes()
        with refused(OutputError, "output-exists"):
            mean_lib.average(two, output)
        assert output.read_bytes() == content
    with refused(OutputError, "output-unwritable"):
        mean_lib.average(two, tmp_path / "missing" / "mean.onnx")
    newer = onnx.load(files["large"])
    newer.opset_import[0].version += 1
    with refused(ConfigError, "member-versions"):
        mean_lib.average([two[0], two[1]._replace(model=newer)], tmp_path / "mean.onnx")
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_file_that_keeps_our_name_is_refused(files, tmp_path: Path) -> None:
    def without_input(model: onnx.ModelProto) -> None:
        del model.graph.input[:]

    def flat(model: onnx.ModelProto) -> None:
        del model.graph.input[0].type.tensor_type.shape.dim[3:]

    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Unknown"

    for damage in (without_input, flat, unknown):
        model = onnx.load(files["small"])
        damage(model)
        onnx.save(model, tmp_path / "damaged.onnx")
        with pytest.raises(NetworkError):
            read_member(tmp_path / "damaged.onnx")


def test_a_mean_is_a_member_too_and_shares_its_weights(files, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    mean_lib.average(members(files, "small", "large"), first)
    mean_lib.average([read_member(first), *members(files, "large|")], second)
    assert second.stat().st_size < 1.5 * files["large"].stat().st_size


def test_members_of_another_precision(files, tmp_path: Path) -> None:
    student = models.create("mediapipe-selfie", encoder="mediapipe-selfie", frozen=(), seed=1)
    half = tmp_path / "half.onnx"
    exporters.export(student, half, input="unit", sigmoid=True, size=LARGE, precision="float16")
    path = tmp_path / "mean.onnx"
    mean_lib.average([read_member(half), *members(files, "large")], path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["file"]["precision"] == "float16+float32"


def test_members_in_eight_bits(trained: Path, tmp_path: Path) -> None:
    member, path = tmp_path / "member.onnx", tmp_path / "mean.onnx"
    exporters.export(trained, member, size=(64, 96), precision="int8")
    mean_lib.average([read_member(member), read_member(member, mirrored=True)], path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["file"]["precision"] == "int8"
    assert card["student"]["weights"] > 0


def test_a_graph_that_computes_something_else_is_not_written(
    files, tmp_path: Path, monkeypatch
) -> None:
    build = mean_lib.mean_graph

    def unmirrored(some, size, form):
        return build([one._replace(mirrored=False) for one in some], size, form)

    monkeypatch.setattr(mean_lib, "mean_graph", unmirrored)
    with refused(ExportError, "graph-differs"):
        mean_lib.average(members(files, "small", "large|"), tmp_path / "mean.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command(files, tmp_path: Path, capsys) -> None:
    output = tmp_path / "mean.onnx"
    given = ["average", str(output), str(files["small"]), f"{files['large']}:mirrored"]
    assert __main__.main([*given, "--size", "32", "32", "--input", "uint8"]) == 0
    assert "mean.json" in capsys.readouterr().out
    assert json.loads(output.with_suffix(".json").read_text())["input"]["dtype"] == "uint8"
    assert __main__.main([*given, "--size", "0", "0"]) == 2
    assert "[input-size]" in capsys.readouterr().err
    assert __main__.main(["average", str(output), str(files["small"])]) == 2
    assert "[too-few-members]" in capsys.readouterr().err
