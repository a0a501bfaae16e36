"""What the start of a run compiles: on a GPU each program costs a tenth of a second or more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests/support")
import jax
import tiny_run
from jaxdistill.training.trainer import Trainer

compiled = 0

def listen(event, duration, **rest):
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"  # or read from the cache

jax.monitoring.register_event_duration_secs_listener(listen)
trainer = Trainer.from_config(tiny_run.make(Path(sys.argv[1])), tiny_run.QUIET)
trainer.setup()
counts = [compiled]
batches = trainer.inputs.train_batches(0)
for _ in range(2):
    next(batches)
    counts.append(compiled)
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_a_run_starts_with_few_programs(tmp_path: Path) -> None:
    """Weights are drawn by NumPy and put on the device; the optimizer's state is one program."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    set_up, first_batch, second_batch = json.loads(done.stdout.splitlines()[-1])
    assert 0 < set_up < 5
    # Key and augmentation; input and output of two networks.
    assert first_batch - set_up < 10
    assert second_batch == first_batch
