"""`training.batch_size: auto`: the arithmetic, and that a CPU refuses it."""

import io
import math
import re
from pathlib import Path
from typing import Any

import jax
import pytest
import tiny_run
import toy_student
from hypothesis import given
from hypothesis import strategies as st
from refused import refused
from rich.console import Console

from jaxdistill import config, losses, models
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training import Trainer, batch_size

GB = 10**9


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy_student.register()
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    return place


def settings(place: Path, *more: str) -> config.Config:
    own = [
        *("student.encoder=toy-encoder", "student.decoder=toy-decoder"),
        *("student.decoder_channels=null", "detector=null", "features=[]"),
        *("training.epochs=1", "training.batch_size=auto"),
    ]
    return config.load(tiny_run.SPECIFIED, [*tiny_run.overrides(place), *own, *more])


@given(
    fixed=st.integers(0, 10 * GB),
    each=st.integers(10**6, GB),
    limit=st.integers(20 * GB, 80 * GB),
    divisor=st.sampled_from([1, 2, 3, 8, 16]),
    most=st.integers(64, 10**6),
)
def test_the_largest_number_that_fits_is_found(fixed, each, limit, divisor, most) -> None:
    needed = {count: fixed + each * count for count in (divisor, 2 * divisor)}
    if needed[divisor] > limit:
        return
    count = batch_size.fitting(needed, limit, divisor, most)
    assert count % divisor == 0
    assert count <= most
    assert fixed + each * count <= limit * (1 + 1e-9)
    multiple = math.lcm(divisor, 8)
    step = multiple if count >= multiple else divisor
    assert count + step > most or fixed + each * (count + step) > limit * (1 - 1e-9)


@pytest.mark.parametrize(
    ("limit", "divisor", "most", "expected"),
    [
        (50 * GB, 1, 10**6, 48),
        (50 * GB, 1, 20, 16),
        (5 * GB, 1, 10**6, 4),
        (5 * GB, 2, 10**6, 4),
        (50 * GB, 3, 10**6, 48),
        (14 * GB, 3, 10**6, 12),
    ],
)
def test_numbers_worked_by_hand(limit, divisor, most, expected) -> None:
    needed = {divisor: (1 + divisor) * GB, 2 * divisor: (1 + 2 * divisor) * GB}
    assert batch_size.fitting(needed, limit, divisor, most) == expected


def test_where_not_one_image_fits_it_says_so() -> None:
    with refused(ConfigError, "batch-size-auto", "9.0 GB"):
        batch_size.fitting({4: 9 * GB, 8: 12 * GB}, 8 * GB, 4, 100)
    with refused(ConfigError, "batch-size-auto", "3 training images"):
        batch_size.fitting({4: 9 * GB, 8: 12 * GB}, 80 * GB, 4, 3)


def test_a_cpu_refuses_it_before_anything_is_done(place: Path, tmp_path: Path) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("a GPU takes it")
    prepared = tmp_path / "prepared"
    with refused(ConfigError, "batch-size-auto"):
        Trainer.from_config(settings(place, f"data.prepared={prepared}"), tiny_run.QUIET)
    assert not prepared.exists()
    with refused(ConfigError, "batch-size-auto"):
        _ = config.Training(batch_size="auto").images_per_step


def test_the_memory_of_a_step_grows_by_the_same_for_each_image() -> None:
    toy_student.register()
    student = models.create("toy-decoder", encoder="toy-encoder")
    given = config.Config(
        run="run",
        data={"root": "data", "image_size": (64, 64)},
        student=student.settings,
        losses={"kl": 0, "mse": 0},
        training={"ema": 0.9},
    )
    terms = losses.from_config(given)
    small, middle, large = (
        batch_size.step_memory(given, student, [], terms, None, Mesh(), count)
        for count in (8, 16, 64)
    )
    assert 0 < small < middle < large
    assert large == pytest.approx(small + (middle - small) * 7, rel=0.1)


def test_a_run_takes_the_number_that_was_found_and_keeps_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the limit is that of a device which the test makes up."""

    printed = io.StringIO()
    monkeypatch.setattr(batch_size, "memory_limit", lambda mesh: GB)
    given = settings(place, f"run={tmp_path}/run")
    trainer = Trainer.from_config(given, Console(file=printed, width=1000))
    assert trainer.settings.training.batch_size == 8  # all of the training images
    assert re.search(r"training.batch_size: 8, for 0.9 GB", printed.getvalue())
    trainer.fit()
    monkeypatch.undo()
    again: Any = Trainer.from_config(given, tiny_run.QUIET)  # on a CPU, too
    assert again.settings.training.batch_size == 8
    assert again.fit(resume=True).progress.epoch == 1
