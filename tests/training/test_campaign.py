"""An unreliable file system: whatever fails, the run can be finished, and nothing differs.

EIO, ESTALE, ENOSPC and slow calls are injected into the calls of libc below the folders of a run,
its prepared data and its target cache, at seeded random places: tests/support/faulty_io.c. Compared
with an undisturbed run are all arrays, all metrics, and that every checkpoint is intact.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("library") / "faulty_io.so"
    source = SUPPORT / "faulty_io.c"
    options = ["-shared", "-fPIC", "-O1", "-o", path, source, "-ldl", "-lpthread"]
    subprocess.run([compiler, *options], check=True)
    return path


@pytest.mark.parametrize(
    ("injections", "seed"), [(40, 0), pytest.param(600, 1000, marks=pytest.mark.campaign)]
)
def test_runs_on_an_unreliable_disk_equal_an_undisturbed_one(
    library: Path, tmp_path: Path, injections: int, seed: int
) -> None:
    program = [sys.executable, SUPPORT / "campaign_child.py"]
    done = subprocess.run(
        [*program, tmp_path, str(injections), str(seed)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout.splitlines()[-1:])
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
