"""Whole runs of the configuration that ships, shrunk: what comes out, resumes, is refused."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import yaml
from PIL import Image
from refused import refused
from rich.console import Console

from jaxdistill import config
from jaxdistill.checkpoint.best import best
from jaxdistill.commands.train import main
from jaxdistill.data import builder
from jaxdistill.models.student import build, flat_variables, param_group
from jaxdistill.runtime.errors import ConfigError, RunError, TrainingError, UserError
from jaxdistill.training import Trainer

EPOCHS = list(range(1, tiny_run.EPOCHS + 1))


def arguments(place: Path, *more: str) -> list[str]:
    return ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(place), *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    return place


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, str]:
    """A run from the command line, as a user starts it, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "jaxdistill.train", *arguments(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place / "run", done.stdout


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_it_promises(finished) -> None:
    run, _ = finished
    assert config.load(run / "config.yaml") == config.load(
        tiny_run.SPECIFIED, tiny_run.overrides(run.parent)
    )
    lines = metrics(run)
    assert [line["epoch"] for line in lines] == EPOCHS
    for line in lines:
        for part in ("train", "validation"):
            assert {"kl", "mse", "bce", "dice", "feature"} < set(line[part])
            assert all(np.isfinite(value) for value in line[part].values())
    assert list((run / "tensorboard").iterdir())
    assert json.loads((run / "provenance.json").read_text())["Data"]["training images"] == 8
    assert f"{lines[-1]['validation']['student_miou']:.4f}" in (run / "report.html").read_text()
    for epoch in EPOCHS:
        sheet = Image.open(run / "samples" / f"epoch_{epoch:03d}.png")
        assert sheet.width > 5 * 64
        assert sheet.height > 4 * 64


def test_a_student_learns_from_a_teacher_that_is_right(finished) -> None:
    run, _ = finished
    first, *_, last = metrics(run)
    assert last["train"]["total"] < 0.7 * first["train"]["total"]
    assert last["validation"]["teacher_miou"] > 0.95
    assert last["validation"]["student_miou"] > 0.85
    assert last["validation"]["agreement"] > 0.95


def test_a_run_says_what_it_works_with_and_what_came_of_it(finished) -> None:
    run, printed = finished
    assert "data: 8 training images, 5 validation images" in printed
    assert f"teacher: {run.parent}/network.onnx, mask (64 x 64 x 1)" in printed
    assert "inner (8 x 8 x 4)" in printed
    assert "CPUExecutionProvider" in printed or "CUDAExecutionProvider" in printed
    assert "loss feature trains projectors" in printed
    assert "warning: the loss feature trains only the projectors" in printed
    for words in ("epoch 8/8", "student mIoU", "teacher mIoU", "agreement", "images/s", str(run)):
        assert words in printed


def test_the_frozen_encoder_keeps_every_byte_and_the_rest_changes(finished) -> None:
    run, _ = finished
    found = best(run)
    after = flat_variables(found.student)
    before = flat_variables(build(found.settings.student, seed=found.settings.seed))
    assert before.keys() == after.keys()
    for name, value in before.items():
        if param_group(name) == "encoder":
            assert np.asarray(value).tobytes() == np.asarray(after[name]).tobytes(), name
        else:
            assert not np.array_equal(value, after[name]), name


@pytest.mark.slow
def test_the_step_is_compiled_once(finished, place: Path) -> None:
    settings = config.load(tiny_run.SPECIFIED, tiny_run.overrides(place))
    trainer = Trainer.from_config(settings)
    trainer.setup()
    state = trainer.state
    with closing(trainer.inputs.train_batches(first_step=0)) as batches:
        for batch in islice(batches, 2):
            state, _ = trainer.train_step(state, trainer.frozen, *trainer.mesh.shard(batch))
    assert trainer.train_step._cache_size() == 1


@pytest.mark.slow
def test_a_rehearsal_says_what_a_run_would_cost_and_writes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(place, f"run={tmp_path / 'run'}", "--dry-run"))
    printed = capsys.readouterr().out
    assert "images 4 x 64 x 64 x 3 float32" in printed
    assert "teacher logits 4 x 64 x 64 x 1" in printed
    assert "features 0 4 x 8 x 8 x 4" in printed
    assert "loss feature trains projectors" in printed
    assert "an epoch of 2 steps" in printed
    assert f"{tiny_run.EPOCHS} epochs, " in printed
    assert "this process" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_in_bfloat16_learns_and_keeps_float32(place: Path, tmp_path: Path) -> None:
    main(arguments(place, f"run={tmp_path}/run", "precision=bfloat16", "training.epochs=5"))
    first, *_, last = metrics(tmp_path / "run")
    assert last["train"]["total"] < 0.8 * first["train"]["total"]
    for name, value in flat_variables(best(tmp_path / "run").student).items():
        assert value.dtype == np.float32, name


def test_a_resumed_run_is_the_untouched_one(finished, place: Path, tmp_path: Path) -> None:
    """Cut back by an epoch, the run does it again, bit for bit."""
    run, _ = finished
    other = tmp_path / "run"
    shutil.copytree(run, other)
    steps = sorted((other / "checkpoints").iterdir(), key=lambda p: int(p.name))
    shutil.rmtree(steps[-1])
    main(arguments(place, f"run={other}", "--resume"))
    untouched, again = metrics(run), metrics(other)
    assert [line["epoch"] for line in again] == EPOCHS
    for part in ("train", "validation"):
        assert untouched[-1][part] == again[-1][part]
    one, two = flat_variables(best(run).student), flat_variables(best(other).student)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_finished_run_is_not_trained_further_or_overwritten(
    finished, place: Path, capsys
) -> None:
    run, _ = finished
    before = metrics(run)
    main(arguments(place, "--resume"))
    assert "has all of its 8 epochs already" in capsys.readouterr().out
    with pytest.raises(RunError) as caught:
        main(arguments(place))
    assert caught.value.code == "run-exists"
    assert metrics(run) == before


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["teacher.onnx=none.onnx"], "no-such-file"),
        (["teacher.tensor=maskk"], "onnx-unknown-tensor"),
        (["features.0.tensor=iner"], "onnx-unknown-tensor"),
        (["features.0.tap=encoder.4"], "feature-size"),
        (["features.0.tap=encoder.9"], "unknown-tap"),
        (["student.encoder=resnet50"], "unknown-encoder"),
        (["student.decoder=unett"], "unknown-decoder"),
        (["student.encoder_weights=none.safetensors"], "no-such-file"),
        (["student.weights=.", "student.encoder_weights=null"], "no-such-file"),
        (["student.frozen=[encodr]"], "unknown-frozen-path"),
        (["data.root=nowhere"], "missing-images"),
        (["--batch_size", "9"], "split-too-small"),
        (["--epochs", "0"], "out-of-range"),
        (["--data.image_size=[60, 64]"], "image-size"),
        (["--losses.kl", "-1"], "out-of-range"),
        (["--losses.kll", "1"], "unknown-loss"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    place: Path,
    tmp_path: Path,
    overrides: list[str],
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the data set is prepared, unless that is what is wrong."""
    if code != "split-too-small":
        monkeypatch.setattr(builder, "prepare", None)
    run = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        main(arguments(place, f"run={run}", *overrides))
    assert caught.value.code == code, str(caught.value)
    assert "\n" not in str(caught.value)
    assert not run.exists()


def test_a_run_as_weights_is_told_its_file(finished, place: Path, tmp_path: Path) -> None:
    run, _ = finished
    overrides = [f"run={tmp_path}/run", f"student.weights={run}", "student.encoder_weights=null"]
    with refused(ConfigError, "no-such-file", ".safetensors"):
        main(arguments(place, *overrides))


def test_a_run_that_cannot_be_a_folder_is_named(place: Path) -> None:
    for run in (place / "network.onnx", place / "network.onnx" / "run"):
        with pytest.raises(RunError) as caught:
            main(arguments(place, f"run={run}"))
        assert caught.value.code == "run-folder"


def test_a_run_knows_the_normalisation_it_was_trained_with(finished, tmp_path: Path) -> None:
    """Whatever the weights file, or the configuration, says by now."""
    run, _ = finished
    before = best(run).student.normalization
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    tree["student"]["normalization"] = "half"
    file.write_text(yaml.safe_dump(tree))
    assert best(tmp_path / "run").student.normalization == before


def test_bad_input_ends_with_one_line_and_exit_code_2(place: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((place / "network.onnx").read_bytes()[:-200])
    given = arguments(place, f"run={tmp_path}/run", f"teacher.onnx={tmp_path}/cut.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "jaxdistill.train", *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "cut.onnx" in line


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_term(
    place: Path, tmp_path: Path
) -> None:
    broken = tiny_run.network(tmp_path / "broken.onnx", bias=np.nan)
    given = arguments(place, f"run={tmp_path}/run", f"teacher.onnx={broken}")
    with pytest.raises(TrainingError) as caught:
        main(given)
    assert caught.value.code == "nonfinite"
    assert re.search(r"step 0: kl is nan.*images \d+.png", str(caught.value))


@pytest.mark.parametrize("attention", ["none", "uncertainty"])
def test_a_teacher_that_does_not_teach_is_asked_in_validation_alone(
    place: Path, capsys, attention: str
) -> None:
    overrides = [
        *tiny_run.overrides(place),
        "losses.kl=0",
        "losses.mse=0",
        f"features.0.attention={attention}",
    ]
    trainer = Trainer.from_config(config.load(tiny_run.SPECIFIED, overrides), Console())
    trainer.setup()
    with closing(trainer.inputs.train_batches(first_step=0)) as batches:
        _, taught = next(batches)
    with closing(trainer.inputs.validation_batches()) as batches:
        _, measured = next(batches)
    assert len(taught.features) == len(measured.features) == 1
    assert measured.logits is not None
    teaches = attention == "uncertainty"
    assert (taught.logits is not None) is teaches
    printed = capsys.readouterr().out
    assert ("no loss uses the teacher's mask" in printed) is not teaches


@pytest.mark.slow
def test_masks_alone_will_do(place: Path, tmp_path: Path, capsys) -> None:
    supervised = ["teacher=null", "detector=null", "features=[]", "losses.kl=0", "losses.mse=0"]
    main(arguments(place, f"run={tmp_path}/run", "--epochs=1", *supervised))
    printed = capsys.readouterr().out
    assert "student mIoU" in printed
    assert "teacher" not in printed.replace("teaches", "")
