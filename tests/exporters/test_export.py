"""Export of a run, end to end, from Python and from the command line; and what is refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from onnx_models import save, segmenter
from refused import refused
from small_student import SMALL

from jaxdistill import config, exporters, models
from jaxdistill.checkpoint.best import best
from jaxdistill.commands import export as command_line
from jaxdistill.evaluation.predictor import from_model, load
from jaxdistill.exporters import orbax
from jaxdistill.exporters.latency import teacher_probe
from jaxdistill.exporters.onnx_graph import Form, student_graph
from jaxdistill.models import Pair, Student, with_projectors
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.runtime.errors import (
    ConfigError,
    DataError,
    ExportError,
    OutputError,
    RunError,
    UserError,
    command,
)


def test_a_run_becomes_verified_files_with_cards(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precisions = ("float32", "float16", "int8")
    output = tmp_path / "person.onnx"
    command_line.main([str(trained), str(output), "--input", "uint8", "--precision", *precisions])
    printed = capsys.readouterr().out
    assert all(precision in printed for precision in precisions)
    sizes = []
    for precision in precisions:
        path = tmp_path / f"person.{precision}.onnx"
        content = path.read_bytes()
        sizes.append(len(content))
        card = json.loads(path.with_suffix(".json").read_text())
        assert card["file"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert card["input"]["shape"] == ["batch", "height", "width", 3]
        assert card["input"]["dtype"] == "uint8"
        assert card["normalization"] == {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "done by": "the graph",
        }
        assert re.fullmatch("[0-9a-f]{64}", card["training"]["fingerprints"]["training_data"])
        assert card["training"]["epoch"] == 2
        assert card["versions"]["onnxruntime"] == onnxruntime.__version__
        assert card["measured"]["bytes"] == len(content)
        assert 0 <= card["measured"]["mean_iou"] <= 1
        stamped = {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}
        assert stamped == {key: card[key] for key in stamped}
        assert stamped["student"]["encoder"] == SMALL.encoder
        assert stamped["student"]["decoder_channels"] == list(SMALL.decoder_channels)
        onnx.checker.check_model(path, full_check=True)
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.5 * sizes[2]


def test_a_student_without_a_run_is_exported_without_its_projectors(
    small: Student, tmp_path: Path
) -> None:
    training = with_projectors(small, [Pair("encoder.3", 8, None)])
    report = exporters.export(training, tmp_path / "a.onnx", size=(64, 64), sigmoid=True)
    assert report.files == (tmp_path / "a.onnx",)
    assert report.measured["float32"]["difference"] < 1e-4
    assert report.measured["float32"]["mean_iou"] is None
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["training"] is None
    with refused(ExportError, "int8-needs-images"):
        exporters.export(training, tmp_path / "b.onnx", size=(64, 64), precision="int8")
    assert not (tmp_path / "b.onnx").exists()


def test_a_student_of_another_precision_is_measured_and_exported_in_float32(
    trained: Path, tmp_path: Path
) -> None:
    student = best(trained).student
    student.dtype = "bfloat16"
    report = exporters.export(student, tmp_path / "a.onnx", size=(64, 64))
    assert report.measured["float32"]["difference"] < 1e-4
    measured = report.measured["float32"]["student"]
    assert measured["precision"] == "bfloat16"
    assert 0 < measured["changed_in_float32"] < 0.1
    assert student.dtype == "bfloat16"
    assert "bfloat16" in from_model(student, (64, 64)).description


def test_a_graph_that_differs_from_the_student_is_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(student: Student, form: Form) -> onnx.ModelProto:
        variables = flat_variables(student)
        variables["head.kernel"] = 1.001 * variables["head.kernel"]
        return student_graph(merge(nnx.graphdef(student), variables), form)

    monkeypatch.setattr(exporters.onnx, "student_graph", wrong)
    for precision in ("float32", "int8"):  # int8 is quantised from the float32 graph
        with refused(ExportError, "graph-differs", "float32"):
            exporters.export(trained, tmp_path / "person.onnx", precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_cannot_be_run_is_not_measured(trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "teacher.onnx"
    broken.write_bytes(b"not a network")
    source = best(trained)
    source = source._replace(
        settings=source.settings.model_copy(update={"teacher": config.Teacher(onnx=broken)})
    )
    report = exporters.export(source, tmp_path / "a.onnx")
    assert report.measured["float32"]["teacher"] is None


def test_a_file_that_is_no_model_card_is_not_replaced(small: Student, tmp_path: Path) -> None:
    notes = tmp_path / "a.json"
    notes.write_text('{"notes": 1}')
    with refused(OutputError, "output-exists", "a.json"):
        exporters.export(small, tmp_path / "a.onnx", size=(64, 64))
    assert notes.read_text() == '{"notes": 1}'
    notes.unlink()
    for _ in range(2):  # an earlier export is replaced
        exporters.export(small, tmp_path / "a.onnx", size=(64, 64))


def test_an_export_without_a_run_describes_its_size(small: Student, tmp_path: Path) -> None:
    exporters.export(small, tmp_path / "a.onnx")
    image = np.zeros((48, 40, 3), np.uint8)
    assert load(tmp_path / "a.onnx").predict(image).shape == (48, 40)


@pytest.mark.parametrize(
    "option", [{"sigmoid": True}, {"precision": "int8"}, {"size": (64, 64)}, {"input": "uint8"}]
)
@pytest.mark.parametrize("name", ["a.orbax", "a.safetensors"])
def test_options_of_graphs_are_refused_for_variables(
    small: Student, tmp_path: Path, option: dict, name: str
) -> None:
    with refused(ConfigError, "invalid-argument"):
        exporters.export(small, tmp_path / name, **option)
    assert not (tmp_path / name).exists()


def test_a_run_whose_images_are_gone_is_compared_on_noise_except_for_int8(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    settings = config.load(run / "config.yaml")
    data = settings.data.model_copy(update={"root": tmp_path / "gone"})
    (run / "config.yaml").write_text(config.dump(settings.model_copy(update={"data": data})))
    with pytest.raises(DataError):
        exporters.export(run, tmp_path / "person.onnx", precision="int8")
    exporters.export(run, tmp_path / "person.onnx", sigmoid=True, size=(64, 64))
    card = json.loads((tmp_path / "person.json").read_text())
    assert card["measured"]["mean_iou"] is None
    assert card["training"]["fingerprints"]["training_data"] is None


def test_an_orbax_folder_needs_neither_run_nor_weights_file(trained: Path, tmp_path: Path) -> None:
    source = best(trained)
    source.student.settings = SMALL.model_copy(update={"weights": tmp_path / "gone.safetensors"})
    report = exporters.export(source, tmp_path / "person.orbax")
    assert report.files == (tmp_path / "person.orbax",)
    student = orbax.load(tmp_path / "person.orbax")
    assert student.settings.weights is student.settings.encoder_weights is None
    assert student.normalization == source.student.normalization
    expected, variables = flat_variables(source.student), flat_variables(student)
    assert variables.keys() == expected.keys()
    assert not any(path.startswith("projectors") for path in variables)
    assert all(np.array_equal(variables[path], expected[path]) for path in variables)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    logits = jax.eval_shape(lambda images: student(images, train=False).logits, images)
    assert logits.shape == (1, 64, 64, 1)
    with refused(RunError, "orbax-unreadable"):
        orbax.load(tmp_path)


def test_another_training_starts_from_an_exported_weights_file(
    trained: Path, tmp_path: Path
) -> None:
    exporters.export(trained, tmp_path / "person.safetensors")
    source = best(trained).student
    settings = SMALL.model_copy(update={"weights": tmp_path / "person.safetensors"})
    start = models.build(settings)
    assert start.normalization == source.normalization
    expected, variables = flat_variables(source), flat_variables(start)
    assert variables.keys() == {name for name in expected if not name.startswith("projectors")}
    assert all(np.array_equal(variables[path], expected[path]) for path in variables)
    exporters.export(tmp_path / "person.safetensors", tmp_path / "person.onnx")
    assert (tmp_path / "person.onnx").exists()


@pytest.mark.parametrize(
    ("batch", "size", "found"), [("N", (96, 64), (96, 64)), (2, None, (32, 64))]
)
def test_a_teacher_is_timed_at_its_own_size(tmp_path: Path, batch, size, found) -> None:
    path = save(segmenter(batch=batch), tmp_path)
    probe = teacher_probe(config.Teacher(onnx=path, size=size), (32, 64))
    [mask] = probe.run()
    count = 1 if batch == "N" else batch
    assert (probe.size, probe.batch) == (found, count)
    assert mask.shape[:2] == (count, 1)


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["{folder}/nowhere", "{folder}/a.onnx"], RunError, "not-a-run"),
        (["{folder}/empty", "{folder}/a.onnx"], RunError, "no-checkpoint"),
        (["{run}", "{folder}/missing/a.onnx"], OutputError, "output-unwritable"),
        (["{run}", "{folder}/a.pb"], ConfigError, "unknown-exporter"),
        (["{run}", "{folder}/a.onnx", "--size", "100", "64"], ConfigError, "image-size"),
        (["{run}", "{folder}/a.onnx", "--images", "0"], ConfigError, "invalid-argument"),
        (["{run}", "{folder}/there.orbax"], OutputError, "output-exists"),
        (["{run}", "{folder}/there.onnx"], OutputError, "output-exists"),
        (["{run}", "{folder}/there.safetensors"], OutputError, "output-exists"),
        (["{run}", "/proc/a.onnx"], OutputError, "output-unwritable"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    trained: Path,
    tmp_path: Path,
    arguments: list[str],
    kind: type[UserError],
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("there.orbax", "there.onnx", "there.safetensors", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty/config.yaml").write_text((trained / "config.yaml").read_text())
    filled = [argument.format(folder=tmp_path, run=trained) for argument in arguments]
    with refused(kind, code):
        command_line.main(filled)
    assert command(lambda: command_line.main(filled)) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"[{code}]\n")
    assert error.count("\n") == 1


def test_an_unknown_precision_is_refused(trained: Path, tmp_path: Path) -> None:
    with refused(ConfigError, "command-line", "int4"):
        command_line.main([str(trained), str(tmp_path / "a.onnx"), "--precision", "int4"])
    with refused(ConfigError, "invalid-argument", "int4"):
        exporters.export(trained, tmp_path / "a.onnx", precision="int4")


def test_an_unknown_input_is_refused(small: Student, tmp_path: Path) -> None:
    with refused(ConfigError, "invalid-argument", "rgb"):
        exporters.export(small, tmp_path / "a.onnx", input="rgb")
