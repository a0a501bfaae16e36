"""The rule over dotted paths divides a student's variables."""

import numpy as np
import pytest
from refused import refused
from small_student import SMALL, small_student

from jaxdistill.models import Pair, unfreezing
from jaxdistill.models.parameters import flat_variables, partition
from jaxdistill.runtime.errors import ConfigError


def test_every_variable_is_in_one_part() -> None:
    student = small_student([Pair("encoder.3", 8, None)])
    parts = partition(student, ["encoder", "decoder.blocks.0"])
    assert sum(map(len, parts[1:])) == len(flat_variables(student))
    assert all(name.startswith(("encoder.", "decoder.blocks.0.")) for name in parts.frozen)
    assert {name.partition(".")[0] for name in parts.params} == {"decoder", "head", "projectors"}
    assert all(name.endswith(("mean", "var")) for name in parts.batch_stats)


def test_a_partition_merges_into_the_same_student_with_other_values() -> None:
    student = small_student()
    parts = partition(student, ["encoder"])
    bias = np.ones_like(parts.params["head.bias"])
    merged = parts.with_values({"head.bias": bias}).merge()
    own, changed = flat_variables(student), flat_variables(merged)
    different = [name for name in own if not np.array_equal(own[name], changed[name])]
    assert different == ["head.bias"]
    assert merged.settings == SMALL


def test_a_prefix_is_a_whole_name() -> None:
    student = small_student([Pair("encoder.3", 8, None)] * 11)
    parts = partition(student, ["projectors.1"])
    assert {name.split(".")[1] for name in parts.frozen} == {"1"}


@pytest.mark.parametrize(
    ("frozen", "code"),
    [
        (["encodr"], "unknown-frozen-path"),
        (["encoder", "decoder", "head"], "nothing-to-train"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(frozen: list[str], code: str) -> None:
    with refused(ConfigError, code, "student.frozen"):
        partition(small_student(), frozen)


def test_stages_come_from_the_encoder() -> None:
    stages = unfreezing.encoder_stages(small_student())
    assert stages[0] == ["encoder.blocks.6"]
    assert stages[-1] == ["encoder.conv_stem", "encoder.bn1"]
    assert len(stages) == 8
    paths = ["encoder.blocks.6.0.conv_pw.kernel", "encoder.bn1.scale", "head.bias"]
    assert list(unfreezing.stage_of(paths, stages).values()) == [
        "encoder.blocks.6",
        "encoder.conv_stem",
        "",
    ]
