"""Runs with a target cache: equal to runs without one, precomputed, shared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from jaxdistill.checkpoint.best import best
from jaxdistill.commands import cache_targets
from jaxdistill.commands.train import main
from jaxdistill.models.student import build, flat_variables
from jaxdistill.runtime.errors import CacheError, ConfigError

EPOCHS = 3
SPECIFIED_LOSSES = ("kl", "mse", "bce", "dice", "feature")
ENTRIES = 3 * (8 * 2 + 5)  # teacher, detector, encoder; 8 images and their flips; 5 to validate


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    return place


def arguments(place: Path, run: Path, *more: str) -> list[str]:
    return [
        "--config",
        str(tiny_run.SPECIFIED),
        *tiny_run.overrides(place),
        "data.augment=flip",
        f"training.epochs={EPOCHS}",
        "training.learning_rate=1e-3",
        f"run={run}",
        *more,
    ]


@pytest.fixture(scope="module")
def cached(place: Path) -> Path:
    """Returns a run that filled its target cache while training."""
    main(arguments(place, place / "cached", f"targets.cache={place}/cache"))
    return place / "cached"


def counts(run: Path) -> dict[str, int]:
    """Returns the counts of the target cache after the last epoch."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["cache"]


def trained(run: Path) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, flat_variables(best(run).student))


def norm(values: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(value).sum() for value in values.values())))


@pytest.mark.slow
def test_a_cached_run_equals_an_uncached_one_within_float16(place: Path, cached: Path) -> None:
    main(arguments(place, place / "uncached"))
    own, other = trained(cached), trained(place / "uncached")
    start = flat_variables(build(best(cached).settings.student))
    moved = {name: other[name] - start[name] for name in other}
    apart = {name: other[name] - own[name] for name in other}
    assert norm(apart) < 0.1 * norm(moved)
    lines = [(run / "metrics.jsonl").read_text() for run in (cached, place / "uncached")]
    for line, same in zip(*(map(json.loads, text.splitlines()) for text in lines), strict=True):
        for part in ("train", "validation"):
            # Rounding grows as it is trained on.
            bound = 1e-3 if (line["epoch"], part) == (1, "train") else 1e-2
            for name in SPECIFIED_LOSSES:
                assert line[part][name] == pytest.approx(same[part][name], rel=bound), name


@pytest.mark.slow
def test_each_image_is_computed_once_and_the_next_run_reads_it(place: Path, cached: Path) -> None:
    first = counts(cached)
    assert first["computed"] <= ENTRIES
    assert first["damaged"] == 0
    # Validation asks for its outputs once, and keeps them in memory.
    ahead = first["hits"] + first["computed"] - 3 * (EPOCHS * 8 + 5)
    assert ahead in (0, 3 * 4)  # a batch may be prefetched for a step after the last
    main(arguments(place, place / "second", f"targets.cache={place}/cache"))
    assert counts(place / "second")["computed"] == 0
    jax.tree.map(np.testing.assert_array_equal, trained(place / "second"), trained(cached))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [["data.augment=light", "targets.clean_images=true"], ["data.crop=0.5"]]
)
def test_changes_that_only_the_student_sees_leave_the_cache_valid(
    place: Path, cached: Path, tmp_path: Path, change: list[str]
) -> None:
    """The teacher's outputs are read; the student's encoder computes its own for changed images."""
    main(arguments(place, tmp_path / "changed", *change, f"targets.cache={place}/cache"))
    assert counts(tmp_path / "changed")["computed"] == 0
    assert not np.array_equal(
        trained(tmp_path / "changed")["head.kernel"], trained(cached)["head.kernel"]
    )


def precompute_arguments(place: Path, cache: Path) -> list[str]:
    return [*arguments(place, place / "none"), f"targets.cache={cache}"]


@pytest.mark.slow
def test_precomputing_leaves_nothing_to_compute(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_targets.main(precompute_arguments(place, tmp_path))
    printed = capsys.readouterr().out
    assert "train: 16 images, counting flipped ones; 16 to compute" in printed
    assert "validation: 5 images, counting flipped ones; 5 to compute" in printed
    assert "GB to write, the disk has" in printed
    assert len(list(tmp_path.glob("*/*/*.safetensors"))) == ENTRIES
    cache_targets.main(precompute_arguments(place, tmp_path))
    assert "train: 16 images, counting flipped ones; 0 to compute" in capsys.readouterr().out
    main(arguments(place, tmp_path / "run", f"targets.cache={tmp_path}"))
    assert counts(tmp_path / "run")["computed"] == 0


@pytest.mark.slow
def test_precomputing_goes_on_after_it_was_killed(place: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "jaxdistill",
        "cache-targets",
        *precompute_arguments(place, tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while not list(tmp_path.glob("logits-*/*/*.safetensors")) and time.monotonic() < patience:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*/*.safetensors")}
    assert 0 < len(before) < ENTRIES
    cache_targets.main(precompute_arguments(place, tmp_path))
    after = {path: path.read_bytes() for path in tmp_path.glob("*/*/*.safetensors")}
    assert len(after) == ENTRIES
    assert all(after[path] == content for path, content in before.items())


def test_a_disk_that_is_too_small_is_reported_before_anything_is_computed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError) as caught:
        cache_targets.main(precompute_arguments(place, tmp_path))
    assert caught.value.code == "disk-full"
    assert not list(tmp_path.glob("*/*/*.safetensors"))


def test_precomputing_needs_a_cache_directory(place: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        cache_targets.main(arguments(place, place / "none"))
    assert caught.value.code == "cache-missing"
