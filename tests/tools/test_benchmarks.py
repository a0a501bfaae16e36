"""The benchmark of the step: the original's arithmetic, its contestants, and errors in one line."""

# ruff: noqa: E402

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import tiny_run

torch = pytest.importorskip("torch", reason="needs the torch extra")

import benchmark_arithmetic
import benchmark_step
import benchmark_table
import drawn_images
import torch_original
from rich.console import Console
from safetensors.torch import save_file

from jaxdistill import config
from jaxdistill.data import splits
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import UserError
from jaxdistill.torch_interop import smp_networks

CHANNELS = (16, 8, 8, 4, 4)
SIZE = (64, 96)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a detector, which is a teacher too, and a teacher's checkpoint."""
    folder = tmp_path_factory.mktemp("networks")
    tiny_run.network(folder / "network.onnx")
    teacher = smp_networks.unet("timm-efficientnet-b0", CHANNELS)
    save_file(teacher.state_dict(), folder / "t.safetensors", {"encoder": "timm-efficientnet-b0"})
    return folder


@pytest.fixture(scope="module")
def settings(place: Path) -> config.Config:
    changes = [*tiny_run.overrides(place), f"data.image_size={list(SIZE)}"]
    return config.load(tiny_run.SPECIFIED, changes)


@pytest.mark.slow
def test_a_step_of_the_original_freezes_the_encoder_s_weights_and_nothing_else(
    place: Path, settings: config.Config
) -> None:
    torch.manual_seed(0)
    original = torch_original.Original(settings, place / "t.safetensors")
    before = {name: t.clone() for name, t in original.student.state_dict().items()}
    images = torch.rand(2, 3, *SIZE, device=original.device)
    original.train_step(images, (images[:, :1] > 0.5).float())
    after = original.student.state_dict()
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    still = {n for n in before if torch.equal(before[n], after[n])} - counters
    still = {name for name in still if ".encoder.bn2." not in name}  # which SMP leaves unused
    parameters = {name for name, _ in original.student.unet.encoder.named_parameters()}
    assert still == {f"unet.encoder.{name}" for name in parameters if not name.startswith("bn2.")}
    gradients = [p.grad for p in original.student.parameters() if p.grad is not None]
    assert torch.cat([g.flatten() for g in gradients]).norm() <= 0.5 * (1 + 1e-5)


def test_the_losses_of_the_original_equal_values_by_hand(settings: config.Config) -> None:
    random = np.random.default_rng(0)
    s, t = random.normal(0, 3, (2, 2, 1, 4, 4))
    mask = random.integers(0, 2, s.shape).astype(float)
    own, wanted = random.normal(size=(2, 2, 5, 3, 3))
    p, q = 1 / (1 + np.exp(-t / 2)), 1 / (1 + np.exp(-s / 2))
    person = 1 / (1 + np.exp(-s))
    axes = (1, 2, 3)
    terms = {
        "kl": 2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(),
        "mse": np.square(s - t).mean(),
        "bce": -(mask * np.log(person) + (1 - mask) * np.log(1 - person)).mean(),
        "dice": np.mean(
            1 - (2 * (person * mask).sum(axes) + 1e-5) / (person.sum(axes) + mask.sum(axes) + 1e-5)
        ),
        "feature": np.square(own - wanted).mean(),
    }
    by_hand = sum(getattr(settings.losses, name) * value for name, value in terms.items())
    logits, teacher, y, projected, features = map(torch.tensor, (s, t, mask, own, wanted))
    found = torch_original.total(logits, [projected], y, teacher, [features], settings, 2.0)
    assert float(found) == pytest.approx(by_hand, rel=1e-9)


def test_a_large_feature_loss_of_the_original_has_no_gradient(settings: config.Config) -> None:
    zero, far = torch.zeros(1, 1, 4, 4), torch.full((1, 5, 2, 2), 4.0, requires_grad=True)

    def loss(limit: float) -> torch.Tensor:
        features = [torch.zeros_like(far)]
        return torch_original.total(zero, [far], zero, zero, features, settings, 1.0, limit)

    clamped, free = loss(torch_original.MAX_FEATURE_LOSS), loss(float("inf"))
    assert float((free - clamped).detach()) == pytest.approx(settings.losses.feature * (16 - 10))
    assert torch.autograd.grad(clamped, far)[0].abs().max() == 0
    assert torch.autograd.grad(free, far)[0].abs().min() > 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 44)])
def test_an_onnx_file_s_arithmetic(tmp_path: Path, height: int, width: int) -> None:
    path = onnx_models.save(onnx_models.segmenter(), tmp_path)
    half, quarter = (-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4))
    found, shapes = benchmark_arithmetic.onnx_flops(path, ["deep"], (height, width))
    assert shapes == [(*quarter, 6)]
    low = 2 * half[0] * half[1] * 4 * 3 * 9
    assert found == low + 2 * quarter[0] * quarter[1] * 6 * 4  # and nothing of `score`


def test_the_arithmetic_of_a_step(place: Path, settings: config.Config) -> None:
    found = benchmark_arithmetic.flops(settings, place / "t.safetensors")
    pixels = SIZE[0] * SIZE[1]
    assert found["detector"] == 2 * pixels / 64 * 4 * 3 * 64  # one convolution, 8 x 8 patches
    # The teacher here is the student's UNet: what is left of it is decoder and head.
    decoder = found["teacher"] - found["encoder"]
    projector = 2 * pixels / 64 * 8 * (40 + 4)
    forward = decoder + projector
    # The backward pass: gradients of all weights, but not of what comes from the encoder.
    assert 2 * forward < found["rest"] < 3 * forward


def test_the_specified_student_s_arithmetic_is_the_known_one() -> None:
    with torch.device("meta"):
        network = smp_networks.unet("timm-efficientnet-b0", (256, 128, 64, 32, 16))
        images = torch.empty(1, 3, 640, 640)
    with torch.no_grad():
        flops = benchmark_arithmetic.counted(lambda: network(images))
    assert flops / 2 == pytest.approx(18.7e9, rel=0.02)


def test_drawn_images_are_a_dataset(tmp_path: Path, settings: config.Config) -> None:
    data = settings.data.model_copy(
        update={"root": tmp_path / "data", "prepared": tmp_path / "prepared"}
    )
    drawn_images.draw(data.root, data, 3)
    examples = splits.open_split(data, "train")
    assert len(examples) == 3
    assert len(splits.open_split(data, "validation")) == 1
    for example in map(examples.__getitem__, range(3)):
        assert example.image.shape == (*SIZE, 3)
        assert 0 < (example.mask > 0).mean() < 1


def test_tables_show_the_measurements() -> None:
    memory = {"host": 2e9, "device": None}
    measured = {
        "setting": {"size": SIZE, "batch": 4, "precision": "float32", "threads": 2},
        "arithmetic": {
            "flops": {"teacher": 40e9, "detector": 30e9, "encoder": 10e9, "rest": 20e9},
            "rates": {"numpy": 50e9, "torch": 100e9},
        },
        "contestants": {
            name: {
                "device": "cpu",
                "memory": memory,
                "median": {"whole step": seconds},
                "seconds": {"whole step": [seconds, 1.5 * seconds]},
            }
            for name, seconds in (("original", 12.0), ("ours", 4.0), ("cached", 2.0))
        },
    }
    console = Console(record=True, width=120, file=io.StringIO())
    benchmark_table.show(measured, console)
    rows = {
        cells[0]: cells[1:]
        for line in console.export_text().splitlines()
        if len(cells := [cell.strip() for cell in line.strip().strip("│").split("│")]) == 4
    }
    assert rows["whole step"] == ["3.0000", "3.00 x  1.0000", "6.00 x  0.5000"]
    assert rows["GFLOP per image"] == ["100.0", "100.0", "20.0"]
    assert rows["floor, s per image"] == ["1.0000", "1.0000", "0.2000"]
    assert rows["whole step / floor"] == ["3.00", "1.00", "2.50"]
    assert rows["slowest / fastest step"] == ["1.50"] * 3
    assert rows["peak memory, GB"] == ["2.00"] * 3
    assert "on the device, GB" not in rows


CONTESTANT = """
import os, sys
sys.path.insert(0, TOOLS)
import benchmark_child
from jaxdistill.runtime import errors

class Stub:
    def __init__(self, setting):
        print("a library prints something")
        self.found = {"threads": setting.threads, "seed": setting.settings.seed}
    def whole(self, steps):
        BEFORE
        return {"whole step": [0.5] * steps}
    def device_memory(self):
        return None

sys.exit(errors.command(lambda: benchmark_child.serve(Stub)))
""".replace("TOOLS", repr(str(Path(benchmark_step.__file__).parent)))


@pytest.fixture
def start(tmp_path: Path, settings: config.Config) -> Callable[[str], benchmark_step.Child]:
    """Starts a contestant that runs some code before it answers."""

    def child(does: str) -> benchmark_step.Child:
        script = tmp_path / "contestant.py"
        script.write_text(CONTESTANT.replace("BEFORE", does))
        path = tmp_path / "stub.yaml"
        path.write_text(config.dump(settings))
        args = benchmark_step.argparse.Namespace(threads=3, teacher_checkpoint="none")
        return benchmark_step.Child([str(script)], path, args)

    return child


def test_a_contestant_answers_whatever_else_is_printed(start: Callable) -> None:
    with start("print('something else')") as child:
        assert child.found == {"threads": 3, "seed": 0}
        for steps in (1, 2):
            answer = child.ask(measure="whole", steps=steps)
            assert answer["seconds"] == {"whole step": [0.5] * steps}
            assert 1e7 < answer["memory"]["host"] < 1e10


@pytest.mark.parametrize(
    ("does", "error", "message"),
    [
        (
            "raise errors.NetworkError('the teacher is damaged', code='onnx-damaged')",
            UserError,
            "^the teacher is damaged$",
        ),
        ("os.kill(os.getpid(), 9)", UserError, "signal 9; was there enough memory"),
        ("{}['key']", RuntimeError, "Traceback(.|\n)*KeyError: 'key'"),
    ],
)
def test_the_error_of_a_contestant_is_passed_on(
    start: Callable, does: str, error: type[Exception], message: str
) -> None:
    with start(does) as child, pytest.raises(error, match=message):
        child.ask(measure="whole", steps=1)


Run = Callable[..., int]


@pytest.fixture
def step(place: Path) -> Run:
    def run(*arguments: object, teacher: Path | None = None) -> int:
        network = place / "network.onnx"
        files = {"--config": tiny_run.SPECIFIED, "--detector": network}
        files |= {"--teacher": teacher or network, "--teacher-checkpoint": place / "t.safetensors"}
        options = [str(text) for pair in files.items() for text in pair]
        shrunk = [
            text for text in tiny_run.overrides(place) if text.startswith(("student.", "features."))
        ]
        small = ["--size", "64", "64", "--batch", "1", "--steps", "1", "--rounds", "1"]
        args = [*options, *small, *map(str, arguments), *shrunk]
        return errors.command(lambda: benchmark_step.main(args))

    return run


def test_missing_files_are_named(step: Run, capsys: pytest.CaptureFixture) -> None:
    assert step(teacher=Path("nowhere.onnx")) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert message.endswith("[no-such-file]")
    assert str(Path("nowhere.onnx").absolute()) in message


@pytest.mark.slow
def test_features_that_do_not_fit_are_refused_before_anything_is_measured(
    step: Run, capsys: pytest.CaptureFixture
) -> None:
    assert step("features.0.tap=encoder.4") == 2
    [message] = capsys.readouterr().err.splitlines()
    assert message.endswith("[feature-size]")


@pytest.mark.slow
def test_all_contestants_are_measured(
    step: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    everyone = list(benchmark_step.SCRIPTS)
    output = tmp_path / "found.json"
    assert step("--contestants", *everyone, "--compiler", "eager", "--json", output) == 0
    found = json.loads(output.read_text())
    contestants = found["contestants"]
    assert set(contestants) == set(everyone)
    assert set(contestants["original"]["median"]) == {
        "teacher",
        "detector",
        "student step",
        "forward",
        "backward",
        "update",
        "whole step",
    }
    assert {"teacher", "detector", "augmentation"} < set(contestants["ours"]["median"])
    assert "cached targets" in contestants["cached"]["median"]
    for name in ("ours", "cached"):
        assert contestants[name]["first step"] > 0  # seconds, compiling included
    for contestant in contestants.values():
        assert min(min(seconds) for seconds in contestant["seconds"].values()) > 0
    assert "whole step" in capsys.readouterr().out
