"""The moving average of the weights: its numbers, who uses it, and how it is resumed."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_student
from refused import refused
from toy_student import StopAfter, stored_arrays
from virtual_devices import run_on_devices

import jaxdistill as jd
from jaxdistill import config
from jaxdistill.checkpoint.best import best
from jaxdistill.models.parameters import flat_variables
from jaxdistill.runtime.errors import RunError
from jaxdistill.training import Callback

EMA = {"decay": 0.8}
UNFREEZE = config.Unfreezing(from_epoch=2, batch_norm=True)


@pytest.fixture(autouse=True)
def _registered() -> None:
    toy_student.register()


def trainer(
    run: Path,
    callbacks: Sequence[Callback] = (),
    unfreeze: config.Unfreezing | None = UNFREEZE,
    **training: Any,
) -> jd.Trainer:
    """A toy student of which the encoder joins in the epochs 2 and 3, two steps each."""
    return toy_student.trainer(run, callbacks, unfreeze, **{"ema": EMA, **training})


class EveryState(Callback):
    """Keeps the trained variables after every step."""

    def __init__(self) -> None:
        self.states: list[dict[str, np.ndarray]] = []

    def on_step_end(self, trainer: jd.Trainer, step: int) -> None:
        state = trainer.state
        self.states.append(jax.tree.map(np.array, {**state.params, **state.batch_stats}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    toy_student.register()
    run, seen = tmp_path_factory.mktemp("finished") / "run", EveryState()
    trainer(run, (seen,)).fit()
    return run, seen.states


@pytest.fixture
def run(finished: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_the_average_is_that_of_the_weights_after_each_step(finished) -> None:
    run, states = finished
    average = stored_arrays(run)["ema"]
    assert average.keys() == states[-1].keys()
    assert len(states[0]) < len(states[2]) < len(states[4])  # an encoder of two stages joins
    start = flat_variables(jd.models.create("toy-decoder", encoder="toy-encoder"))
    for path, found in average.items():
        expected = np.asarray(start[path], np.float64)
        for step, state in enumerate(states):
            decay = min(0.8, (1 + step) / (10 + step))
            if path in state:
                expected += (1 - decay) * (state[path] - expected)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)
    assert any(".mean" in path for path in average)


def test_validation_and_the_best_student_take_the_average(run: Path) -> None:
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for folder in (run / "checkpoints").iterdir():
        if folder != newest:
            shutil.rmtree(folder)
    found, stored = best(run), stored_arrays(run)
    values = flat_variables(found.student)
    for path, average in stored["ema"].items():
        np.testing.assert_array_equal(values[path], average, err_msg=path)
    assert any(not np.array_equal(values[path], now) for path, now in stored["params"].items())
    measured = jd.evaluate(found, toy_student.batches()).network["miou"]
    assert found.metadata["validation"]["student_miou"] == pytest.approx(measured, abs=1e-6)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_resumed_run_has_the_same_average_to_the_last_bit(
    finished, run: Path, epochs: int
) -> None:
    """It is cut off before, between and after the phases of the unfreezing."""
    whole = stored_arrays(finished[0])
    shutil.rmtree(run)
    trainer(run, (StopAfter(2 * epochs - 1),)).fit()
    assert trainer(run).fit(resume=True).progress.epoch == 4
    jax.tree.map(np.testing.assert_array_equal, stored_arrays(run), whole)


@pytest.mark.parametrize(("before", "after"), [(EMA, None), (None, EMA), (EMA, 0.9)])
def test_another_average_is_another_setting(tmp_path: Path, before: Any, after: Any) -> None:
    run = tmp_path / "run"
    trainer(run, epochs=1, ema=before).fit()
    assert sorted(stored_arrays(run)) == [
        "batch_stats",
        *(["ema"] if before else []),
        "opt_state",
        "params",
    ]
    weights = stored_arrays(run)["params"]
    with refused(RunError, "changed-settings", "training.ema"):
        trainer(run, epochs=2, ema=after).fit(resume=True)
    first: list[dict[str, Any]] = []
    at_start = AtStart(lambda each: first.append(jax.tree.map(np.array, each.state.ema)))
    resumed = trainer(run, (at_start,), epochs=2, ema=after)
    resumed.fit(resume=True, accept_changes=True)
    assert ("ema" in stored_arrays(run)) == (after is not None)
    if before is None:  # it starts from the weights
        for path, value in weights.items():
            np.testing.assert_array_equal(first[0][path], value)


class AtStart(Callback):
    def __init__(self, call: Callable[[jd.Trainer], Any]) -> None:
        self.on_fit_start = call  # type: ignore[method-assign]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_leaves_the_average(tmp_path: Path, accumulate: int) -> None:
    built = trainer(tmp_path / "run", accumulate=accumulate, unfreeze=None)
    built.setup()
    batch, teacher = next(built.inputs.train_batches(0))
    broken = batch._replace(images=jnp.asarray(batch.images).at[0, 0, 0, 0].set(jnp.nan))
    state = built.state
    for each, changes in ((batch, True), (broken, False), (batch, True)):
        before = jax.tree.map(np.array, state.ema)
        state, _ = built.train_step(state, built.frozen, *built.mesh.shard((each, teacher)))
        same = [np.array_equal(state.ema[path], value) for path, value in before.items()]
        assert all(same) != changes


def test_a_number_alone_is_the_decay() -> None:
    assert config.Training(ema=0.99).ema == config.Ema(decay=0.99)
    for wrong in (1, -0.1, True, "0.9"):
        with pytest.raises(ValueError, match="ema"):
            config.Training(ema=wrong)


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/support")
import numpy as np
import tiny_run, toy_student
import jaxdistill as jd
from jaxdistill import config

toy_student.register()
draw = np.random.default_rng(0)
masks = draw.integers(0, 2, (3, 4, 16, 16, 1)).astype(np.float32)
images = draw.uniform(size=(3, 4, 16, 16, 3)).astype(np.float32)
batches = [{"images": image, "masks": mask} for image, mask in zip(images, masks)]

def average(devices):
    model = jd.models.create("toy-decoder", encoder="toy-encoder", frozen=())
    settings = config.Config(
        run=Path(sys.argv[1]) / str(devices),
        data=config.Data(image_size=(16, 16)),
        student=model.settings,
        losses=config.Losses(kl=0, mse=0, feature=0),
        training=config.Training(epochs=1, batch_size=4, learning_rate=1e-3, ema={"decay": 0.8}),
        mesh=config.Mesh(data=devices),
    )
    trainer = jd.Trainer(
        model, batches, validation=batches, settings=settings, run=settings.run,
        losses={"bce": jd.losses.BCE(weight=1.0)}, console=tiny_run.QUIET,
    )
    trainer.fit()
    for leaf in trainer.state.ema.values():
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == devices
    return {path: np.asarray(value) for path, value in trainer.state.ema.items()}

one, four = average(1), average(4)
for path, value in one.items():
    np.testing.assert_allclose(four[path], value, rtol=1e-3, atol=1e-5, err_msg=path)
assert any(path.endswith(".mean") for path in one)
print("compared")
"""


@pytest.mark.slow
def test_several_devices_have_one_average(tmp_path: Path) -> None:
    run_on_devices(PROGRAM, str(tmp_path))
