"""Export: the graph against the Flax student, the command line end to end, and what it refuses."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import orbax.checkpoint as ocp
import pytest
from coco_folders import Folder, box, encode
from flax import nnx
from onnx_models import save, segmenter

from jaxdistill import config
from jaxdistill.checkpoint import manager
from jaxdistill.checkpoint.best import best as best_of
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.commands import export
from jaxdistill.config import Student as Settings
from jaxdistill.data import image_ops
from jaxdistill.exporters import orbax, verify
from jaxdistill.exporters.onnx_graph import Form, Input, student_graph
from jaxdistill.models import student
from jaxdistill.models.student import Student
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.training import step as step_lib
from jaxdistill.training.progress import Progress

SMALL = Settings(encoder="tf_efficientnet_lite0", decoder_channels=(16, 8, 8, 4, 4))
ENCODERS = [
    "timm-efficientnet-b0",
    "tf_efficientnet_b0",
    "tf_efficientnet_lite0",
    pytest.param("timm-efficientnet-b3", marks=pytest.mark.slow),
    pytest.param("tf_efficientnet_b3", marks=pytest.mark.slow),
]


def randomised(settings: Settings, normalization: str = "imagenet", seed: int = 0) -> Student:
    """A student with no variable at its default, BatchNorm's statistics included."""
    random = np.random.default_rng(seed)
    blank = Student(settings, image_ops.resolve(normalization), rngs=nnx.Rngs(seed))
    variables = student.flat_variables(blank)
    for path, value in variables.items():
        match path.rpartition(".")[2]:
            case "scale" | "var":
                variables[path] = jnp.asarray(random.uniform(0.6, 1.5, value.shape), "float32")
            case "bias" | "mean":
                variables[path] = jnp.asarray(random.normal(0, 0.2, value.shape), "float32")
    return student.merge(nnx.graphdef(blank), variables)


@pytest.fixture(scope="module")
def small() -> Student:
    return randomised(SMALL, "half")


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def run(model: onnx.ModelProto, feed: np.ndarray) -> np.ndarray:
    """onnxruntime's output, NHWC."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": feed})[0].transpose(0, 2, 3, 1)


def unit(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_graph_gives_the_student_s_logits(encoder: str) -> None:
    network = randomised(Settings(encoder=encoder, decoder_channels=(24, 16, 12, 8, 4)))
    images = pictures(3, 64, 96)
    wanted = verify.flax_outputs(network, images, Form())
    given = run(student_graph(network, Form("unit")), unit(images))
    assert wanted.std() > 0.05  # else anything would be equal
    assert np.abs(given - wanted).max() < 1e-4


def test_free_sides_and_any_batch_are_served_by_one_graph(small: Student) -> None:
    model = student_graph(small, Form("unit"))
    for count, height, width in ((1, 32, 32), (2, 160, 96)):
        images = pictures(count, height, width)
        wanted = verify.flax_outputs(small, images, Form())
        assert np.abs(run(model, unit(images)) - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def logits(small: Student) -> np.ndarray:
    return verify.flax_outputs(small, pictures(1, 64, 96), Form())


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("kind", ["normalized", "unit", "uint8"])
def test_every_form_computes_the_same_mask_up_to_the_border(
    small: Student, logits: np.ndarray, kind: Input, sigmoid: bool
) -> None:
    form = Form(kind, sigmoid, (64, 96))
    model = student_graph(small, form)
    fed = next(verify.feed(pictures(1, 64, 96), form, small.normalization))
    wanted = 1 / (1 + np.exp(-logits)) if sigmoid else logits
    assert np.abs(run(model, fed) - wanted).max() < 1e-4
    (image,), (output,) = model.graph.input, model.graph.output
    sides = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert sides == (["batch", 64, 96, 3] if kind == "uint8" else ["batch", 3, 64, 96])
    assert output.name == ("mask" if sigmoid else "logits")


def test_the_graph_is_what_a_person_would_draw() -> None:
    model = student_graph(student.build(Settings()), Form())
    counted = Counter(node.op_type for node in model.graph.node)
    # The counts of SMP's network as torch exports it; see tests/parity/test_export_parity.py.
    assert counted == {
        "Conv": 91,
        "Sigmoid": 64,
        "Mul": 64,
        "GlobalAveragePool": 16,
        "Add": 9,
        "Relu": 10,
        "Resize": 5,
        "Concat": 4,
    }
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "encoder/blocks.1.0/conv_dw" in names
    assert not any("head" in name and name != "head" for name in names)  # no classifier


def test_float16_is_half_the_size_and_close(small: Student) -> None:
    single, half = (student_graph(small, Form("unit"), p) for p in ("float32", "float16"))
    assert half.ByteSize() < 0.55 * single.ByteSize()
    images = unit(pictures(2, 64, 64))
    wanted = run(single, images)
    given = run(half, images)
    assert given.dtype == np.float32
    assert np.abs(given - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Student) -> Path:
    """A run with a checkpoint, and with bright people on dark grounds to measure on."""
    folder = tmp_path_factory.mktemp("trained")
    data = people(folder / "people")
    settings = config.Config(
        run=folder / "run",
        data=data,
        student=SMALL.model_copy(update={"normalization": "half"}),
        losses=config.Losses(kl=0, mse=0),
    )
    settings.run.mkdir()
    (settings.run / "config.yaml").write_text(config.dump(settings))
    blank = student.build(settings.student, seed=settings.seed)
    split = student.freeze(blank, settings.student.frozen)
    own = student.flat_variables(small)
    state = step_lib.start(
        settings,
        split._replace(
            params={path: own[path] for path in split.params},
            batch_stats={path: own[path] for path in split.batch_stats},
        ),
    )
    record = {
        "frozen": fingerprint(split.frozen),
        "progress": vars(Progress(epoch=2, step=6)),
        "validation": {"student_miou": 0.5},
    }
    with manager.Checkpoints(settings.run, settings.checkpoints) as kept:
        kept.save(state._replace(step=jnp.asarray(6, jnp.int32)), record, score=0.5)
    return settings.run


def people(root: Path) -> config.Data:
    folder = Folder(root)
    random = np.random.default_rng(0)
    for number in range(6):
        left = 8 * number
        image = random.integers(0, 80, (64, 96, 3), np.uint8)
        image[16:56, left : left + 30] += 150
        folder.person(
            folder.image(f"{number}.png", encode(image), (64, 96)), box(16, left, 56, left + 30)
        )
    folder.write()
    return folder.data(image_size=(64, 96))


def test_a_run_becomes_verified_files_with_cards(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precisions = ("float32", "float16", "int8")
    output = tmp_path / "person.onnx"
    export.main([str(trained), str(output), "--input", "uint8", "--precision", *precisions])
    shown = capsys.readouterr().out
    assert all(precision in shown for precision in precisions)
    sizes = []
    for precision in precisions:
        path = tmp_path / f"person.{precision}.onnx"
        content = path.read_bytes()
        sizes.append(len(content))
        about = json.loads(path.with_suffix(".json").read_text())
        assert about["file"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert about["input"]["shape"] == ["batch", "height", "width", 3]
        assert about["input"]["dtype"] == "uint8"
        assert about["normalization"] == {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "done by": "the graph",
        }
        assert re.fullmatch("[0-9a-f]{64}", about["training"]["fingerprints"]["training_data"])
        assert about["training"]["epoch"] == 2
        assert about["versions"]["onnxruntime"] == onnxruntime.__version__
        assert about["measured"]["bytes"] == len(content)
        assert 0 <= about["measured"]["mean_iou"] <= 1
        stamped = {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}
        assert stamped == {key: about[key] for key in stamped}
        assert stamped["student"]["encoder"] == SMALL.encoder
        onnx.checker.check_model(path, full_check=True)
        masks = run(onnx.load(path), pictures(2, 96, 64))
        assert masks.shape == (2, 96, 64, 1)
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.5 * sizes[2]


def test_a_graph_that_strays_is_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: Student, form: Form) -> onnx.ModelProto:
        variables = student.flat_variables(network)
        variables["head.kernel"] = 1.001 * variables["head.kernel"]
        return student_graph(student.merge(nnx.graphdef(network), variables), form)

    monkeypatch.setattr(export, "student_graph", wrong)
    arguments = [str(trained), str(tmp_path / "person.onnx")]
    with pytest.raises(UserError, match=r"float32 graph does not do .* difference 0.00"):
        export.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_pictures_noise_serves_but_not_for_int8(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UserError("the pictures are gone")

    monkeypatch.setattr(export, "open_split", gone)
    with pytest.raises(UserError, match="pictures are gone"):
        export.main([str(trained), str(tmp_path / "person.onnx"), "--precision", "int8"])
    export.main([str(trained), str(tmp_path / "person.onnx"), "--sigmoid", "--size", "64", "64"])
    about = json.loads((tmp_path / "person.json").read_text())
    assert about["measured"]["mean_iou"] is None
    assert about["training"]["fingerprints"]["training_data"] is None


def test_the_orbax_folder_names_no_weights_file(small: Student, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"weights": tmp_path / "gone.safetensors"})
    orbax.save(tmp_path / "person.orbax", settings, small)
    with ocp.StandardCheckpointer() as checkpointer:
        told = checkpointer.metadata(tmp_path / "person.orbax").custom_metadata["student"]
    assert told["weights"] is told["encoder_weights"] is None


@pytest.mark.parametrize(
    ("batch", "size", "found"), [("N", (96, 64), (96, 64)), (2, None, (32, 64))]
)
def test_a_teacher_is_timed_at_its_own_size(tmp_path: Path, batch, size, found) -> None:
    path = save(segmenter(batch=batch), tmp_path)
    probe, *measured = verify.teacher_probe(config.Teacher(onnx=path, size=size), (32, 64))
    [mask] = probe()
    count = 1 if batch == "N" else batch
    assert measured == [found, count]
    assert mask.shape[:2] == (count, 1)


def test_the_readme_s_lines_read_the_orbax_folder(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "person.orbax"
    export.main([str(trained), str(folder)])

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {"folder": folder, "images": np.zeros((1, 64, 64, 3), np.float32)}
    exec(snippet, names)
    network = names["network"]
    assert names["logits"].shape == (1, 64, 64, 1)

    wanted = best_of(trained).student
    assert network.normalization == wanted.normalization
    theirs, own = student.flat_variables(wanted), student.flat_variables(network)
    assert own.keys() == theirs.keys()
    assert not any(path.startswith("projectors") for path in own)
    assert all(np.array_equal(own[path], theirs[path]) for path in own)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{folder}/nowhere", "{folder}/a.onnx"], "is not a run"),
        (["{folder}/empty", "{folder}/a.onnx"], "no checkpoint"),
        (["{run}", "{folder}/missing/a.onnx"], "missing is not a folder"),
        (["{run}", "{folder}/a.pb"], "ends in .onnx or .orbax"),
        (["{run}", "{folder}/a.onnx", "--size", "100", "64"], "multiples of 32"),
        (["{run}", "{folder}/a.onnx", "--pictures", "0"], "at least one"),
        (["{run}", "{folder}/there.orbax"], "exists already"),
        (["{run}", "/proc/a.onnx"], "cannot write"),
    ],
)
def test_bad_input_is_named_in_one_line(
    trained: Path,
    tmp_path: Path,
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.orbax").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.yaml").write_text((trained / "config.yaml").read_text())
    filled = [argument.format(folder=tmp_path, run=trained) for argument in arguments]
    assert command(lambda: export.main(filled)) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_an_unknown_precision_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        export.main([str(trained), str(tmp_path / "a.onnx"), "--precision", "int4"])
