"""Decay toward the start: its numbers, what it applies to, and how it is resumed."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_student
from refused import refused
from toy_student import StopAfter, stored_arrays

import jaxdistill as jd
from jaxdistill import config
from jaxdistill.models import weights
from jaxdistill.models.parameters import PARAM_GROUPS
from jaxdistill.runtime.errors import ConfigError, RunError
from jaxdistill.training import Callback
from jaxdistill.training.anchor import anchored_groups
from jaxdistill.training.optimizer import build_optimizer, learning_rate_schedule

ANCHOR = 20.0
RATE, DECAY = 1e-2, 0.1


def test_the_steps_are_those_of_a_numpy_loop() -> None:
    rng = np.random.default_rng(0)
    start = {f"{group}.kernel": rng.normal(size=5) for group in PARAM_GROUPS}
    gradients = [{path: rng.normal(size=5) for path in start} for _ in range(6)]
    settings = config.Training(
        anchor=ANCHOR,
        weight_decay=DECAY,
        learning_rate=RATE,
        clip={"norm": None},
        learning_rates={"encoder": 0.5},
    )
    schedule = learning_rate_schedule(settings, 100)
    built = build_optimizer(settings, schedule, anchored=("encoder", "decoder", "head"))
    params = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), start)
    state = built.init(params)
    for each in gradients:
        each = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), each)
        updates, state = built.update(each, state, params)
        params = {path: params[path] + update for path, update in updates.items()}

    for path, first in start.items():
        value, m, v = first.copy(), np.zeros(5), np.zeros(5)
        for step, each in enumerate(gradients, start=1):
            m = 0.9 * m + 0.1 * each[path]
            v = 0.999 * v + 0.001 * each[path] ** 2
            direction = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            new = path.startswith("projectors")  # which no file holds
            direction += DECAY * value if new else ANCHOR * (value - first)
            value -= RATE * (0.5 if path.startswith("encoder") else 1) * direction
        np.testing.assert_allclose(params[path], value, rtol=2e-5, atol=1e-6, err_msg=path)


def test_without_an_anchor_the_optimizer_is_what_it_was() -> None:
    params = {f"{group}.kernel": jnp.ones(2) for group in PARAM_GROUPS}
    settings = config.Training(weight_decay=DECAY)
    schedule = learning_rate_schedule(settings, 1)
    plain = build_optimizer(settings, schedule).init(params)
    assert jax.tree.structure(plain) == jax.tree.structure(
        build_optimizer(settings, schedule, anchored=("encoder",)).init(params)
    )


def test_what_a_file_holds_is_anchored() -> None:
    assert anchored_groups(config.Student(weights="a")) == ("encoder", "decoder", "head")
    assert anchored_groups(config.Student(encoder_weights="a")) == ("encoder",)
    given = {"run": "r", "losses": {"kl": 0, "mse": 0}, "training": {"anchor": 1}}
    with refused(ConfigError, "anchor-needs-weights", "training.anchor"):
        config.check(given, "given")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy_student.register()
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    student = jd.models.create("toy-decoder", encoder="toy-encoder")
    jd.models.save_weights(student, path)
    return path


def trainer(run: Path, file: Path, *callbacks: Callback, **training: Any) -> jd.Trainer:
    """A toy student of which the encoder joins in the epochs 2 and 3, two steps each."""
    unfreeze = config.Unfreezing(from_epoch=2)
    return toy_student.trainer(run, callbacks, unfreeze, file, **{"anchor": ANCHOR, **training})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    trainer(run, file).fit()
    return run


def test_a_run_ends_nearer_to_its_start_and_every_stage_has_its_own(
    finished: Path, file: Path, tmp_path: Path
) -> None:
    trainer(tmp_path / "run", file, anchor=0).fit()
    start, _ = weights.load(file)

    def distance(run: Path) -> float:
        params = stored_arrays(run)["params"]
        assert len(params) == len([name for name in start if not name.endswith(("mean", "var"))])
        return max(float(np.abs(value - start[path]).max()) for path, value in params.items())

    assert distance(finished) < distance(tmp_path / "run")
    kept = [
        (key.rpartition("start")[2].strip("[]'.:"), value)
        for key, value in stored_arrays(finished)["opt_state"].items()
        if "start" in key
    ]
    assert len(kept) == len(stored_arrays(finished)["params"])
    for path, value in kept:
        np.testing.assert_array_equal(value, start[path], err_msg=path)


def test_a_resumed_run_is_the_same_to_the_last_bit(
    finished: Path, file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer(run, file, StopAfter(2)).fit()  # within the first phase that trains the encoder
    assert trainer(run, file).fit(resume=True).progress.epoch == 4
    jax.tree.map(np.testing.assert_array_equal, stored_arrays(run), stored_arrays(finished))


def test_a_run_goes_on_with_another_strength_but_not_without_an_anchor(
    finished: Path, file: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    with refused(RunError, "changed-settings", "training.anchor"):
        trainer(run, file, anchor=1, epochs=5).fit(resume=True)
    with refused(RunError, "checkpoint-misfit"):
        trainer(run, file, anchor=0, epochs=5).fit(resume=True, accept_changes=True)
    trainer(run, file, anchor=1, epochs=5).fit(resume=True, accept_changes=True)
