import json

import coco_folders
import numpy as np
import pytest
import tiny_run
import yaml
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx_models import parse, save
from rich.console import Console

from jaxdistill import analysis, config
from jaxdistill.analysis import probing
from jaxdistill.analysis.feature_maps import FeatureMap, feature_maps
from jaxdistill.analysis.probing import (
    MaskedImages,
    grouped,
    person_shares,
    rank_maps,
)
from jaxdistill.commands import rank_features
from jaxdistill.data import splits
from jaxdistill.models import feature_info
from jaxdistill.models.feature_pairs import pair_up
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers import base, from_config
from jaxdistill.teachers.onnx_graph import OnnxGraph

# `bright` holds the means of a cell's colours; `hashed` depends on them, but predicts nothing.
PLANTED = """
planted (float[N, 3, H, W] image) => (float[N, 1, h, w] mask)
{
    bright = Conv <kernel_shape = [8, 8], strides = [8, 8]> (image, means)
    large = Mul (bright, thousands)
    hashed = Sin (large)
    coarse = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (hashed)
    lost = Log (hashed)
    all = Concat <axis = 1> (hashed, bright)
    mask = Conv <kernel_shape = [1, 1]> (all, weights)
}
"""


def planted(folder):
    model = parse(PLANTED)
    rng = np.random.default_rng(0)
    means = np.zeros((4, 3, 8, 8))
    means[[0, 1, 2], [0, 1, 2]] = 1 / 64
    means[3] = 1 / 192
    for name, values in {
        "means": means,
        "thousands": rng.uniform(1e4, 2e4, (1, 4, 1, 1)),
        "weights": rng.normal(size=(1, 8, 1, 1)),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype("f4"), name))
    return save(model, folder, "planted.onnx")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("rank")
    coco_folders.discs(place / "coco")
    tiny_run.network(place / "network.onnx")
    planted(place)
    tree = {
        "run": str(place / "run"),
        "data": {
            "root": str(place / "coco"),
            "prepared": str(place / "prepared"),
            "image_size": [64, 64],
        },
        "teacher": {"onnx": str(place / "network.onnx"), "normalization": "unit"},
        "detector": {"onnx": str(place / "planted.onnx")},
    }
    (place / "my.yaml").write_text(yaml.safe_dump(tree))
    return place


def run(place, capsys, *arguments):
    """Runs the command, and returns its JSON and what it printed."""
    output = place / "out" / "ranks.json"
    rank_features.main(["--config", str(place / "my.yaml"), "--output", str(output), *arguments])
    return json.loads(output.read_text()), capsys.readouterr().out


def refuse(place, code, *arguments):
    """Asserts that the command is refused, and returns the message."""
    with pytest.raises(UserError) as caught:
        rank_features.main(["--config", str(place / "my.yaml"), *arguments])
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ranked(place, max_bytes=probing.MAX_BYTES, images=8):
    settings = config.load(place / "my.yaml")
    graph = OnnxGraph(settings.detector.onnx)
    chosen = [m for m in feature_maps(graph, None, (64, 64)) if m.channels >= 4]
    train, validation = (
        MaskedImages(splits.open_split(settings.data, split), settings, images)
        for split in ("train", "validation")
    )
    console = Console(quiet=True)
    return rank_maps(
        graph, settings.detector, settings, chosen, train, validation, console, max_bytes
    )


def test_the_tensor_with_the_brightness_is_the_best(place, capsys):
    """Discs are bright. What is not finite is counted and left out."""
    found, printed = run(place, capsys)
    by_name = {row["tensor"]: row for row in found["tensors"]}
    assert found["tensors"][0]["tensor"] in ("all", "bright")
    assert by_name["bright"]["iou"] > 0.85
    assert by_name["bright"]["r2"] > 0.9
    assert by_name["hashed"]["iou"] < 0.3
    assert by_name["hashed"]["r2"] < 0.3
    assert "lost" not in by_name
    assert "left out: 1 with values that are not finite" in printed
    assert "detector: " in printed
    assert found["images"] == {"train": 8, "validation": 5}
    ious = [row["iou"] for row in found["tensors"]]
    assert ious == sorted(ious, reverse=True)


def test_the_suggestion_is_ready_to_run(place, capsys):
    """Per stride the best, with a tap in the decoder that is as large."""
    found, printed = run(place, capsys)
    suggestion = found["suggestion"]
    assert f"\n{yaml.safe_dump(suggestion, sort_keys=False)}" in printed
    best = found["tensors"][0]["tensor"]
    assert suggestion["features"] == [
        {"tensor": best, "tap": "decoder.1"},
        {"tensor": "coarse", "tap": "decoder.0"},
    ]
    (place / "next.yaml").write_text(yaml.safe_dump({"extends": "my.yaml", **suggestion}))
    settings = config.load(place / "next.yaml")
    shapes = base.feature_shapes(from_config(settings), (64, 64))
    pairs = pair_up(settings.features, shapes, (64, 64), feature_info(settings.student))
    assert [pair.tap for pair in pairs] == ["decoder.1", "decoder.0"]


def test_the_file_has_what_was_measured_on_what(place, capsys):
    found, _ = run(place, capsys, "--tensors", "bright", "--images", "3")
    graph = OnnxGraph(place / "planted.onnx")
    assert found["fingerprints"]["detector"] == graph.fingerprint
    assert found["detector"]["onnx"] == str(place / "planted.onnx")
    assert found["images"] == {"train": 3, "validation": 3}
    [row] = found["tensors"]
    about = {name: row[name] for name in row if name not in ("iou", "r2", "ridge")}
    assert about == {
        "tensor": "bright",
        "operator": "Conv",
        "stride": 8,
        "height": 8,
        "width": 8,
        "channels": 4,
        "constant_channels": 0,
        "multiplications_share": pytest.approx(192 * 4 / (192 * 4 + 8)),
        "cache_bytes_per_image": 2 * 4 * 64,
    }


def test_a_pattern_selects_internal_tensors_too(place, capsys):
    """Only a ReLU reads the teacher's `inner`. The suggestion names the teacher as the detector."""
    found, printed = run(place, capsys, "--network", "teacher")
    assert [row["tensor"] for row in found["tensors"]] == ["deep"]
    assert found["suggestion"] == {
        "detector": {"onnx": str(place / "network.onnx"), "normalization": "unit"},
        "features": [{"tensor": "deep", "tap": "decoder.1"}],
    }
    found, printed = run(place, capsys, "--network", "teacher", "--tensors", "in*")
    assert [row["tensor"] for row in found["tensors"]] == ["inner"]
    assert "teacher: " in printed


def test_without_a_detector_the_teacher_is_ranked(place, capsys):
    found, _ = run(place, capsys, "detector=null")
    assert [row["tensor"] for row in found["tensors"]] == ["deep"]


def test_another_file_is_named_as_the_detector(place, capsys):
    found, _ = run(place, capsys, f"detector.onnx={place / 'network.onnx'}", "--tensors", "*")
    assert {row["tensor"] for row in found["tensors"]} == {"inner", "deep"}


def test_strides_can_be_chosen(place, capsys):
    found, _ = run(place, capsys, "--stride", "16")
    assert [row["tensor"] for row in found["tensors"]] == ["coarse"]


def test_with_little_memory_the_numbers_are_the_same(place, monkeypatch, on_a_cpu):
    """One tensor is computed at a time, on the same cells. `hashed` magnifies rounding.

    Of a part of the network, a GPU may take another algorithm than of the whole.
    """
    opened = []

    class Noted(probing.OnnxSession):
        def __init__(self, graph, tensors, *args):
            opened.append(len(tensors))
            super().__init__(graph, tensors, *args)

    monkeypatch.setattr(probing, "OnnxSession", Noted)
    at_once, one_by_one = ranked(place), ranked(place, max_bytes=1)
    assert opened == [6, 1, 1, 1, 1, 1, 1]
    alone = {one.map: one for one in one_by_one}
    assert len(alone) == len(at_once) == 5
    for one in at_once:
        digits = 1e-6 if one.map.tensor == "bright" else 0.01
        assert one.iou == pytest.approx(alone[one.map].iou, abs=digits)
        assert one.r2 == pytest.approx(alone[one.map].r2, abs=digits)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 2048)), max_size=12),
    st.integers(1, 10**9),
)
def test_only_a_single_map_takes_more_than_the_memory(sizes, memory):
    all_ = [
        FeatureMap(str(i), "Conv", side, side, c, 0, False) for i, (side, c) in enumerate(sizes)
    ]
    groups = list(grouped(all_, memory))
    assert [each for together in groups for each in together] == all_
    for together in groups:
        values = sum(4 * each.height * each.width * each.channels for each in together)
        sums = sum(2 * 8 * each.channels**2 for each in together)
        assert len(together) == 1 or values + sums <= memory


def test_shares_are_means_over_cells():
    mask = np.zeros((4, 8), np.uint8)
    mask[0, 0] = mask[2:, 6:] = 1
    found = person_shares(mask, FeatureMap("x", "Conv", 2, 4, 1, 0, False))
    np.testing.assert_array_equal(found, [0.25, 0, 0, 0, 0, 0, 0, 1])


def test_a_network_must_be_configured(place):
    supervised = ["detector=null", "teacher=null", "losses.kl=0", "losses.mse=0"]
    refuse(place, "network-missing", *supervised)
    refuse(place, "network-missing", "--network", "detector", "detector=null")


def test_a_pattern_that_matches_nothing_is_answered_with_near_names(place):
    assert "'bright'" in refuse(place, "unknown-tensor", "--tensors", "brigth")


def test_where_nothing_fits_the_maps_are_shown(place):
    chosen = ["--stride", "4", "--tensors", "bright", "--tensors", "mask"]
    assert "8 x 8 x 4, 8 x 8 x 1" in refuse(place, "no-tensors", *chosen)


def test_a_probe_needs_two_images(place):
    refuse(place, "too-few-images", "--images", "1")


def test_the_api_gives_the_ranking_without_printing(place, capsys):
    settings = config.load(place / "my.yaml")
    ranking = analysis.rank_features(settings, tensors=["bright"], images=3)
    assert [row["tensor"] for row in ranking.tensors] == ["bright"]
    assert ranking.suggestion["features"] == [{"tensor": "bright", "tap": "decoder.1"}]
    assert capsys.readouterr().out == ""


def test_a_file_that_cannot_be_written_is_named(place):
    output = place / "planted.onnx" / "ranks.json"
    chosen = ["--tensors", "bright", "--output", str(output)]
    assert str(output) in refuse(place, "cannot-write", *chosen)


@pytest.mark.slow
def test_in_a_real_network_a_late_tensor_is_better_than_an_early_one(tmp_path, shared, capsys):
    tree = {
        "run": "run",
        "data": {
            "root": str(shared("data", "people")),
            "prepared": str(tmp_path / "prepared"),
            "image_size": [320, 320],
        },
        "detector": {"onnx": str(shared("models", "u2netp.onnx")), "normalization": "imagenet"},
        "losses": {"kl": 0, "mse": 0},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tree))
    chosen = ["--tensors", "1429", "--tensors", "813", "--images", "16"]
    found, _ = run(tmp_path, capsys, *chosen)
    late, early = found["tensors"]
    assert (late["tensor"], early["tensor"]) == ("1429", "813")
    assert late["iou"] > 0.8 > 0.3 > early["iou"]
