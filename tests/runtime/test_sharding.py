"""Steps over eight devices: equal to those on one."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from jaxdistill.runtime.errors import UserError
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.training.accumulation import accumulate

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, imagenet_encoder: Path) -> dict[str, Any]:
    """How far apart what was learnt is, by `mesh_child`."""
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    child = Path(__file__).with_name("mesh_child.py")
    environment = {**os.environ, **EIGHT, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(child), str(place), str(imagenet_encoder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_eight_devices_learn_what_one_learns(found) -> None:
    # The specification's student; its encoder's weights are random, which enlarges rounding.
    assert max(found["float64"].values()) < 1e-10, found["float64"]
    # ImageNet weights. A unit on its kink (`smooth.py`) moves some runs, but not most.
    assert statistics.median(max(apart.values()) for apart in found["float32"]) < 1e-5
    apart = found["smooth"]
    assert {"params", "batch_stats", "kl", "feature", "validation student_miou"} < set(apart)
    assert max(apart.values()) < 1e-5, apart


@pytest.mark.slow
def test_the_same_holds_of_a_batch_in_parts(found) -> None:
    assert max(found["four, in parts"].values()) < 1e-5
    # BatchNorm measures each part by itself: that is another training, though not by much.
    assert 1e-5 < found["in parts"]["params"] < 1e-2
    assert found["in parts"]["total"] < 0.2


def test_the_mean_over_parts_is_the_whole_ones_and_each_part_has_rows_of_every_share() -> None:
    rows = np.arange(24.0).reshape(12, 2)
    seen = []

    def measure(part, x, carried):
        return x.sum(0) / 4, jnp.concatenate([carried[4:], x[:, 0]])

    mean, seen = accumulate(measure, jnp.asarray(rows), jnp.zeros(12), 3)
    np.testing.assert_allclose(mean, rows.mean(0))
    # Whoever holds rows 0 to 5, and whoever holds the others, has as many of each part.
    np.testing.assert_array_equal(np.reshape(seen, (3, 4)) // 2 % 3, [[0] * 4, [1] * 4, [2] * 4])


@pytest.mark.parametrize(
    ("size", "parts", "complaint"),
    [
        (
            4,
            3,
            "4 does not divide among 1 devices, each in training.accumulate: 3 parts; choose a mul"
            "tiple of 3",
        )
    ],
)
def test_a_batch_that_does_not_divide_is_refused(size: int, parts: int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Mesh().check(size, parts)


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match=r"mesh\.data is 99, but there are 1 devices"):
        Mesh(99)
