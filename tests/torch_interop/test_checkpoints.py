"""Checkpoints as training scripts write them."""

# ruff: noqa: E402

import argparse
import json
import logging

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import safetensors.torch
from refused import refused

from jaxdistill.runtime.errors import WeightsError
from jaxdistill.torch_interop import checkpoints, smp_networks

PLAIN = {
    "encoder.conv_stem.weight": torch.arange(4.0),
    "decoder.blocks.0.conv1.0.weight": torch.arange(3.0),
    "segmentation_head.0.weight": torch.arange(2.0)[None],
}
OTHER = {name: tensor + 1 for name, tensor in PLAIN.items()}


def prefixed(prefix, tensors=PLAIN):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def read(tmp_path, content):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    return checkpoints.read(path)


def assert_plain(tensors):
    assert tensors.keys() == PLAIN.keys()
    assert all(torch.equal(tensors[name], PLAIN[name]) for name in PLAIN)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "net.",
        "model.",
        "model.module.",
        "student.",
        "a.b.c.",
        "_model.",
    ],
)
def test_any_prefix_is_taken_off(tmp_path, prefix):
    assert_plain(read(tmp_path, prefixed(prefix)))


def test_an_encoder_alone_may_have_a_prefix(tmp_path):
    encoder = {"conv_stem.weight": torch.ones(1), "bn1.weight": torch.ones(2)}
    for prefix in ("", "module.", "backbone."):
        assert read(tmp_path, prefixed(prefix, encoder)).keys() == encoder.keys()


@pytest.mark.parametrize(
    "holders", [["model"], ["net"], ["state_dict"], ["model_state_dict"], ["model", "state_dict"]]
)
def test_a_holder_is_opened(tmp_path, holders):
    content = prefixed("module.")
    for holder in reversed(holders):
        content = {"epoch": 3, holder: content, "optimizer": {"lr": 0.1}}
    assert_plain(read(tmp_path, content))


def test_the_ema_is_taken_as_timm_does(tmp_path):
    assert_plain(read(tmp_path, {"state_dict": OTHER, "state_dict_ema": PLAIN}))
    assert_plain(read(tmp_path, {"model": OTHER, "model_ema": prefixed("module.")}))
    assert_plain(read(tmp_path, {"model": OTHER, "ema": PLAIN}))
    assert_plain(read(tmp_path, {"model": OTHER, "ema": {"module": PLAIN, "updates": 3}}))


def test_what_lightning_keeps_beside_the_network_is_left_over_and_named(tmp_path, caplog):
    beside = {"mean": torch.ones(3), "std": torch.ones(3), "loss_fn.pos_weight": torch.ones(1)}
    with caplog.at_level(logging.WARNING):
        assert_plain(read(tmp_path, {"state_dict": {**prefixed("model."), **beside}}))
    [message] = caplog.messages
    assert all(name in message for name in beside)


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    endless = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")
    with refused(WeightsError, "not-a-state-dict"):
        checkpoints.read(tmp_path / "endless.pth")


def test_several_networks_are_refused(tmp_path):
    with refused(WeightsError, "several-networks", "student., teacher."):
        read(tmp_path, {**prefixed("student."), **prefixed("teacher.")})


def test_the_command_line_of_timm_is_admitted(tmp_path):
    assert_plain(read(tmp_path, {"state_dict": PLAIN, "args": argparse.Namespace(lr=0.1)}))


def test_a_torchscript_archive_is_called_by_its_name(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 1, 1), torch.ones(1, 3, 4, 4)), path)
    with refused(WeightsError, "not-a-state-dict", "TorchScript"):
        checkpoints.read(path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_save_pretrained_is_read(tmp_path, name):
    if name.endswith(".bin"):
        torch.save(PLAIN, tmp_path / name)
    else:
        safetensors.torch.save_file(PLAIN, tmp_path / name)
    assert checkpoints.metadata_of(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps({"encoder_name": "timm-efficientnet-b1"}))
    assert_plain(checkpoints.read(tmp_path))
    assert checkpoints.metadata_of(tmp_path) == {"encoder": "timm-efficientnet-b1"}


def test_a_folder_without_weights_is_named(tmp_path):
    with refused(WeightsError, "weights-missing", "save_pretrained"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"decoder.blocks.0.attention1.attention.cSE.1.weight": torch.ones(1)}, "SCSE"),
        ({"segmentation_head.0.weight": torch.ones(21, 1)}, "21 classes"),
    ],
)
def test_unets_that_cannot_be_used_are_called_by_their_names(tmp_path, more, names):
    with refused(WeightsError, "not-an-smp-unet", names):
        smp_networks.decoder_channels({**PLAIN, **more}, tmp_path)
