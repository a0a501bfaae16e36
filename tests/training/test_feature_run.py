"""A run with every kind of feature pair: it resumes, and its student is exported and used."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_run

from jaxdistill.checkpoint.best import best
from jaxdistill.commands import export, predict
from jaxdistill.commands.train import main
from jaxdistill.models.student import flat_variables, param_group

FEATURES = (
    "features=["
    "{tensor: inner, tap: decoder.1, hidden_channels: 4, loss: mgd, standardize: true,"
    " attention: uncertainty},"
    "{tensor: deep, tap: decoder.3, hidden_channels: null, loss: cwd, resize: true}]"
)


def arguments(place: Path, *more: str) -> list[str]:
    shrunk = [given for given in tiny_run.overrides(place) if not given.startswith("features")]
    own = [
        FEATURES,
        "losses.feature_weights=learned",
        "training.clip.per=group",
        "training.epochs=2",
        "student.encoder=tf_efficientnet_lite0",
    ]
    return ["--config", str(tiny_run.SPECIFIED), *shrunk, *own, *more]


@pytest.mark.slow
def test_a_run_with_every_kind_of_feature_pair_resumes_and_is_used(tmp_path: Path, capsys) -> None:
    tiny_run.make(tmp_path)
    run, other = tmp_path / "run", tmp_path / "other"
    main(arguments(tmp_path))
    printed = capsys.readouterr().out
    assert "features.1: decoder.3 is resized from 32 x 32 to 8 x 8" in printed
    assert "features.0: standardised; 0 of 4 channels never change" in printed
    assert "warning: the loss" not in printed

    shutil.copytree(run, other)
    shutil.rmtree(max((other / "checkpoints").iterdir(), key=lambda step: int(step.name)))
    main(arguments(tmp_path, f"run={other}", "--resume"))
    untouched, again = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, other)
    )
    names = {f"{kind}.{n}" for kind in ("feature", "feature_weight") for n in range(2)}
    assert names < untouched[-1]["train"].keys()
    for part in ("train", "validation"):
        assert untouched[-1][part] == again[-1][part]

    assert {param_group(name) for name in flat_variables(best(run).student)} == {
        "encoder",
        "decoder",
        "head",
    }
    export.main([str(run), str(tmp_path / "student.onnx")])
    pictures = str(tmp_path / "coco" / "images" / "val2017")
    predict.main([str(run), pictures, "--output", str(tmp_path / "found")])
    assert len(list((tmp_path / "found").rglob("*.png"))) == 5
