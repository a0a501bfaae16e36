"""Training steps on eight devices compute what one device computes."""

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

from jaxdistill.runtime.errors import ConfigError
from jaxdistill.runtime.sharding import Mesh, local_rows
from jaxdistill.training.accumulation import accumulate

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory, imagenet_encoder: Path) -> dict[str, Any]:
    """Relative differences between trained values, as `mesh_child` prints them."""
    place = tmp_path_factory.mktemp("place")
    tiny_run.make(place)
    child = tiny_run.ROOT / "tests" / "support" / "mesh_child.py"
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
def test_eight_devices_train_to_the_values_of_one(differences) -> None:
    # Random encoder weights, which amplify rounding.
    assert max(differences["float64"].values()) < 1e-10, differences["float64"]
    # ImageNet weights. A ReLU input near 0 (see smooth.py) changes some runs, but not most.
    assert statistics.median(max(apart.values()) for apart in differences["float32"]) < 1e-5
    apart = differences["smooth"]
    assert {"params", "batch_stats", "kl", "feature", "validation student_miou"} < set(apart)
    assert max(apart.values()) < 1e-5, apart


@pytest.mark.slow
def test_accumulated_gradients_are_the_same_on_four_devices(differences) -> None:
    assert max(differences["four, in parts"].values()) < 1e-5
    # BatchNorm normalises each part separately, so the values differ, but not by much.
    assert 1e-5 < differences["in parts"]["params"] < 1e-2
    assert differences["in parts"]["total"] < 0.2


def test_accumulate_returns_the_mean_and_each_part_has_rows_of_every_device() -> None:
    rows = np.arange(24.0).reshape(12, 2)
    seen = []

    def measure(part, x, carried):
        return x.sum(0) / 4, jnp.concatenate([carried[4:], x[:, 0]])

    mean, seen = accumulate(measure, jnp.asarray(rows), jnp.zeros(12), 3)
    np.testing.assert_allclose(mean, rows.mean(0))
    # A device with rows 0 to 5 and one with the others have equally many rows in each part.
    np.testing.assert_array_equal(np.reshape(seen, (3, 4)) // 2 % 3, [[0] * 4, [1] * 4, [2] * 4])


@pytest.mark.parametrize(("rows", "parts", "divisor"), [(4, 3, 3), (9, 2, 2)])
def test_a_batch_that_does_not_divide_is_refused(rows: int, parts: int, divisor: int) -> None:
    with pytest.raises(ConfigError, match=f"multiple of {divisor}") as caught:
        Mesh().check_batch_size(rows, parts)
    assert caught.value.code == "batch-not-divisible"


def test_a_batch_that_divides_is_accepted() -> None:
    Mesh().check_batch_size(6, 3)


def test_more_devices_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Mesh(99)
    assert caught.value.code == "mesh-size"


def test_replicate_commits_arrays_once() -> None:
    mesh = Mesh()
    first = mesh.replicate({"a": np.ones(3)})
    assert first["a"].committed
    assert mesh.replicate(first)["a"] is first["a"]


def test_local_rows_of_one_process_are_all_rows() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(local_rows(Mesh().shard(rows)), rows)
    np.testing.assert_array_equal(local_rows(rows), rows)
