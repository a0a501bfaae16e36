"""Networks of full size with random weights, for measurements where the real ones are missing.

The detector costs what YOLOv9-E's feature extractor costs: ResNet-152 has about 189 GFLOP per
image of 640 x 640. Its outputs mean nothing.
"""

import warnings
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from jaxdistill.torch_interop import export_teacher, smp_networks

TENSOR = "features"
"""Name of the detector's output."""
_STRIDE = 8


class Detector(nn.Module):
    """A classifier's body: images (N, 3, H, W) to a map of stride 8."""

    def __init__(self, body: str, channels: int) -> None:
        super().__init__()
        self.body = timm.create_model(body, features_only=True, out_indices=(4,))
        self.projection = nn.Conv2d(self.body.feature_info.channels()[-1], channels, 1)
        self.factor = self.body.feature_info.reduction()[-1] // _STRIDE

    def forward(self, images: Tensor) -> Tensor:
        [deep] = self.body(images)
        return F.interpolate(self.projection(deep), scale_factor=self.factor, mode="nearest")


def write(folder: Path, side: int, channels: int, *, small: bool) -> None:
    """Writes `teacher.onnx` and `detector.onnx` into a folder, where they are missing.

    Args:
      folder: The folder, which is made.
      side: Height and width of the detector's images, in pixels.
      channels: Channels of the detector's tensor.
      small: Whether to write small networks, for a rehearsal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if not (folder / "teacher.onnx").exists():
        (folder / "teacher.onnx").write_bytes(export_teacher.to_onnx(_teacher(small), None, 17))
    if not (folder / "detector.onnx").exists():
        with smp_networks.quiet():
            detector = Detector("resnet18" if small else "resnet152", channels)
        _export(_with_statistics(detector.eval()), folder / "detector.onnx", side)


def write_checkpoint(path: Path, *, small: bool) -> None:
    """Writes the teacher as the original's checkpoint, with other random weights.

    Args:
      path: A `.safetensors` file.
      small: Whether to write a small network, for a rehearsal.
    """
    save_file(_teacher(small).state_dict(), path, metadata={"encoder": _encoder(small)})


def _teacher(small: bool) -> nn.Module:
    decoder = (16, 8, 8, 4, 4) if small else (256, 128, 64, 32, 16)
    return _with_statistics(smp_networks.unet(_encoder(small), decoder))


def _encoder(small: bool) -> str:
    return "timm-efficientnet-b0" if small else export_teacher.DEFAULT_ENCODER


def _with_statistics(network: nn.Module) -> nn.Module:
    """Moves the BatchNorms off their identity, else they may be left out."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def _export(network: nn.Module, path: Path, side: int) -> None:
    free = {0: "N"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about sizes that are constant here
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, side, side),),
            str(path),
            input_names=["images"],
            output_names=[TENSOR],
            dynamic_axes={"images": free, TENSOR: free},
            opset_version=17,
            dynamo=False,
        )
