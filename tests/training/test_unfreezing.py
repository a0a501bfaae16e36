"""Progressive unfreezing: what joins when, what it starts from, and that nothing else notices."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st
from refused import refused

from jaxdistill import config
from jaxdistill.checkpoint.best import best
from jaxdistill.commands.predict import main as predict
from jaxdistill.commands.train import main as train
from jaxdistill.models import build, unfreezing
from jaxdistill.models.parameters import flat_variables, param_group
from jaxdistill.runtime.errors import RunError
from jaxdistill.training.optimizer import migrate_opt_state
from jaxdistill.training.step_spec import initial_state, step_spec

STAGES = [f"encoder.blocks.{i}" for i in reversed(range(7))]
STAGES_OF_LITE0 = unfreezing.encoder_stages(build(config.Student(encoder="tf_efficientnet_lite0")))
PLAN = "student.unfreeze={from_epoch: 3, every: 2, stages: 2, learning_rate_scale: 0.5}"


def student(**plan: object) -> config.Student:
    return config.Student(
        encoder="tf_efficientnet_lite0",
        decoder_channels=(8, 8, 4, 4, 4),
        unfreeze=config.Unfreezing(**{"from_epoch": 3, **plan}),
    )


@pytest.mark.parametrize(
    ("plan", "phases"),
    [
        ({}, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8]),
        ({"from_epoch": 1, "stages": 2}, [1, 2, 2, 2]),
        ({"every": 3, "stages": 3}, [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]),
    ],
)
def test_a_stage_joins_every_so_many_epochs(plan: dict, phases: list[int]) -> None:
    settings = student(**plan)
    assert [
        unfreezing.phase(settings, epoch, STAGES_OF_LITE0) for epoch in range(len(phases))
    ] == phases


@pytest.fixture(scope="module")
def network():
    return build(student())


@given(phase=st.integers(0, 8), batch_norm=st.booleans())
def test_the_deepest_stages_are_trained_and_the_others_are_not(network, phase, batch_norm) -> None:
    split = unfreezing.partition_in_phase(network, student(batch_norm=batch_norm), phase)
    trained = [*STAGES, "encoder.conv_stem", "encoder.bn1"][: phase + (phase == 8)]
    everything = {*split.params, *split.batch_stats, *split.frozen}
    assert everything == set(flat_variables(network))
    for path in everything:
        learns = param_group(path) != "encoder" or any(path.startswith(t + ".") for t in trained)
        measured = path.endswith((".mean", ".var"))
        if not measured:
            assert (path in split.params) == learns, path
        elif param_group(path) == "encoder":
            assert (path in split.batch_stats) == (learns and batch_norm), path
        else:
            assert path in split.batch_stats, path


@pytest.mark.parametrize("frozen", [(), ("encoder.conv_stem",), ("decoder",)])
def test_layers_that_segmentation_does_not_use_are_never_trained(network, frozen) -> None:
    split = unfreezing.partition_in_phase(network, config.Student(frozen=frozen), 0)
    unused = [path for path in flat_variables(network) if ".conv_head." in path or "r.bn2." in path]
    assert len(unused) == 5
    assert set(unused) <= split.frozen.keys()
    used = flat_variables(network).keys() - set(unused)
    assert {path for path in used if not path.startswith(tuple(frozen) or "-")} == {
        *split.params,
        *split.batch_stats,
    }


@pytest.mark.slow
def test_what_joins_starts_afresh_and_what_was_there_stays(network) -> None:
    """Adam's first step is the gradient's sign, whenever it is taken."""
    settings = config.Config(
        run="run",
        data={"root": "data"},
        student=student(learning_rate_scale=0.25).model_dump(),
        losses={"kl": 0, "mse": 0},
        training={
            "clip": {"norm": None},
            "weight_decay": 0.1,
            "learning_rate": 1.0,
            "final_learning_rate": 1.0,
        },
    )
    before = unfreezing.partition_in_phase(network, settings.student, 0)
    spec = step_spec(settings, network, before.graphdef, {}, 1)
    state = initial_state(spec, before)
    adamw = spec.optimizer
    gradients = {path: jnp.full_like(value, 0.3) for path, value in state.params.items()}
    moments = state.opt_state
    for _ in range(5):
        _, moments = adamw.update(gradients, moments, state.params)
    state = state._replace(opt_state=moments)

    split = unfreezing.partition_in_phase(network, settings.student, 1)
    fresh = initial_state(spec, split)
    after = fresh._replace(opt_state=migrate_opt_state(state.opt_state, fresh.opt_state))
    gradients = {path: jnp.full_like(value, -0.3) for path, value in after.params.items()}
    updates, _ = adamw.update(gradients, after.opt_state, after.params)
    b1 = 0.9
    mean = (b1 * (1 - b1**5) * 0.3 - (1 - b1) * 0.3) / (1 - b1**6)
    for path, value in after.params.items():
        joins = path not in state.params
        first = -1.0 if joins else mean / 0.3
        scale = 0.25 if joins else 1.0
        expected = -scale * (first + 0.1 * np.asarray(value))
        np.testing.assert_allclose(updates[path], expected, rtol=2e-5, atol=2e-6, err_msg=path)


def test_an_encoder_that_is_not_frozen_cannot_be_unfrozen() -> None:
    with pytest.raises(ValueError, match="conflicting-keys"):
        config.Student(frozen=(), unfreeze=config.Unfreezing(from_epoch=2))


def arguments(place: Path, run: Path, *more: str) -> list[str]:
    encoder = "student.encoder=tf_efficientnet_lite0"
    own = [encoder, "training.epochs=6", PLAN, f"run={run}", *more]
    return ["--config", str(tiny_run.SPECIFIED), *tiny_run.overrides(place), *own]


@pytest.mark.slow
def test_a_run_that_unfreezes_learns_resumes_and_is_used_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run.make(tmp_path)
    run = tmp_path / "whole"
    train(arguments(tmp_path, run, "checkpoints.keep=6"))
    printed = capsys.readouterr().out
    assert "loss kl trains decoder, head, and encoder once it is unfrozen" in printed
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    joined = ["gradient_norm_encoder" in line["train"] for line in lines]
    assert joined == [False, False, True, True, True, True]

    # The encoder's last stages have changed, its first ones have not.
    initial = flat_variables(build(config.load(run / "config.yaml").student, seed=0))
    steps = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    final = flat_variables(best(run).student)
    phase = json.loads((steps[-1] / "metadata" / "metadata").read_text())["progress"]["phase"]
    assert phase == 2
    untouched = [path for path in final if path.startswith("encoder.blocks.4.")]
    assert untouched
    for path in untouched:
        assert np.array_equal(initial[path], final[path]), path

    # Cut back to before, into and behind the phases, it comes to the same numbers.
    for kept in (2, 3, 5):
        other = tmp_path / f"cut-{kept}"
        shutil.copytree(run, other)
        for step in steps[kept:]:
            shutil.rmtree(other / "checkpoints" / step.name)
        train(arguments(tmp_path, other, "--resume"))
        again = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
        for one, two in zip(lines, again, strict=True):
            assert (one["train"], one["validation"]) == (two["train"], two["validation"])

    slower = [run, "--resume", "--accept-changes", "student.unfreeze.stages=1"]
    with refused(RunError, "unfreezing-plan"):
        train(arguments(tmp_path, *slower, "training.epochs=7"))
    other_statistics = [run, "--resume", "--accept-changes", "student.unfreeze.batch_norm=true"]
    with refused(RunError, "checkpoint-misfit"):
        train(arguments(tmp_path, *other_statistics, "training.epochs=7"))
    assert all(path.is_dir() for path in steps)  # none of them was damaged, so none is removed
    train([*arguments(tmp_path, tmp_path / "other"), "--dry-run"])
    assert "measured with 2 of the encoder's stages trained" in capsys.readouterr().out

    picture = next((tmp_path / "coco" / "images" / "val2017").iterdir())
    assert not predict([str(run), str(picture), "--output", str(tmp_path / "found")])
