"""Collective operations of a step, as `communication.py` counts them."""

import json
import os
import subprocess
import sys

import communication
import pytest
import tiny_run

from jaxdistill.ops.forms import PLAIN_OPS

PROGRAM = """
%body (p: (s32[], f32[6])) -> (s32[], f32[6]) {
  %p = (s32[], f32[6]{0}) parameter(0)
  %all-reduce.3 = f32[6]{0} all-reduce(%d), channel_id=4, to_apply=%add
}

ENTRY %main (a: f32[3,4]) -> f32[5] {
  %all-reduce.1 = f32[3,4]{1,0} all-reduce(%a), channel_id=1, to_apply=%add
  %all-reduce.2 = (f32[5]{0}, bf16[2,2]{1,0}, /*index=2*/pred[]) all-reduce(%b, %c), channel_id=2
  %all-gather-start = f32[8]{0} all-gather-start(%e), channel_id=3
  %get = f32[5]{0} get-tuple-element(%all-reduce.2), index=0
  LOOP
}
"""
LOOP = (
    "%while.1 = (s32[], f32[6]{0}) while(%t), condition=%less, body=%body, "
    'backend_config={"known_trip_count":{"n":"4"}}'
)


def test_a_program_s_collectives_are_found_with_their_bytes() -> None:
    sent = communication.parse(PROGRAM.replace("LOOP", ""))
    assert sent.calls == {"all-reduce": 2, "all-gather": 1}
    assert sent.bytes == {"all-reduce": 4 * 12 + (4 * 5 + 2 * 4 + 1), "all-gather": 4 * 8}


def test_collectives_of_a_loop_count_as_often_as_it_runs() -> None:
    once, looped = (communication.parse(PROGRAM.replace("LOOP", each)) for each in ("", LOOP))
    assert looped.calls["all-reduce"] - once.calls["all-reduce"] == 4
    assert looped.bytes["all-reduce"] - once.bytes["all-reduce"] == 4 * 4 * 6


def test_a_ring_sends_almost_everything_twice_and_takes_its_turns() -> None:
    link = communication.Link("", 4, 10.0, 0.5)
    # Of 40 bytes in quarters: 3 to reduce and 3 to gather, each a second; 6 turns of 2 calls.
    assert communication.seconds(link, 2, 40) == pytest.approx(6 * 1.0 + 2 * 6 * 0.5)


MEASURE = """
import json, sys, communication, tiny_run
from jaxdistill import config
from jaxdistill.models import Pair, student, unfreezing
settings = config.load(tiny_run.SPECIFIED, json.loads(sys.argv[1]))
sent = communication.measure(settings, 8, 4, plain=json.loads(sys.argv[2]))
pairs = [Pair(f.tap, 4, f.hidden_channels) for f in settings.features]
network = student.build(settings.student, pairs)
partition = unfreezing.partition_in_phase(network, settings.student, 0)
trained = sum(value.size for value in partition.params.values())
print(json.dumps({"calls": sent.calls, "bytes": sent.bytes, "trained": trained}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forms", "largest"),
    [
        ("plain", 1.0),
        # These merge the decoder's 3x3 kernels to 4x4 ones, and sum the gradients of the latter.
        ("cpu", 16 / 9),
        ("gpu", 16 / 9),
    ],
)
def test_a_step_sends_gradients_and_sums_and_no_maps(forms: str, largest: float) -> None:
    overrides = [
        "student.encoder_weights=null",
        "student.encoder=tf_efficientnet_lite0",
        "student.decoder_channels=[16, 8, 8, 4, 4]",
        "features.0.hidden_channels=8",
    ]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        PLAIN_OPS: "all" if forms == "plain" else "",
        "PYTHONPATH": os.pathsep.join([*sys.path, str(tiny_run.ROOT / "tests")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(overrides), json.dumps(forms == "gpu")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["calls"]) == {"all-reduce"}
    assert found["bytes"]["all-reduce"] >= 4 * found["trained"]
    assert found["bytes"]["all-reduce"] < largest * 4 * found["trained"] + 20_000
