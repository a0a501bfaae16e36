"""The PyTorch original's training step, in our own words: what a step of ours is measured against.

Here things are done as the original does them, also where we do them otherwise: frozen means that
the encoder gets no gradient, while its BatchNorms go on measuring and its drop path stays on; the
feature loss is clamped; teacher and student run in torch's eager mode, the detector in onnxruntime.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import feature_info
from jaxdistill.models.feature_pairs import Pair, pair_up
from jaxdistill.torch_interop import export_teacher, smp_networks
from jaxdistill.torch_interop.onnx_sessions import open_network

LARGEST_FEATURE_LOSS = 10.0
_PROBABILITY_MARGIN = 1e-7


class Student(nn.Module):
    """SMP's UNet and the projectors; pictures (N, 3, H, W) in [0, 1] to logits and projections."""

    def __init__(self, settings: config.Student, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.normalization = image_ops.resolve(settings.normalization or "imagenet")
        self.unet = smp_networks.unet(settings.encoder, settings.decoder_channels)
        encoder = self.unet.encoder.out_channels[1:]
        channels = {f"encoder.{i}": c for i, c in enumerate(encoder, start=1)}
        channels |= {f"decoder.{i}": c for i, c in enumerate(settings.decoder_channels)}
        self.pairs = pairs
        self.projectors = nn.ModuleList(
            projector(channels[pair.tap], pair.channels, pair.hidden) for pair in pairs
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, taps = self.taps(pictures)
        projected = [p(taps[pair.tap]) for p, pair in zip(self.projectors, self.pairs, strict=True)]
        return logits, projected

    def taps(self, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the feature maps by the names that our student gives them."""
        features = self.unet.encoder(normalize(pictures, self.normalization))
        taps = {f"encoder.{i}": tap for i, tap in enumerate(features) if i > 0}
        hooks = [
            block.register_forward_hook(
                lambda _, __, output, i=i: taps.__setitem__(f"decoder.{i}", output)
            )
            for i, block in enumerate(self.unet.decoder.blocks)
        ]
        logits = self.unet.segmentation_head(self.unet.decoder(features))
        for hook in hooks:
            hook.remove()
        return logits, taps


def projector(inputs: int, outputs: int, hidden: int | None) -> nn.Sequential:
    if hidden is None:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1))
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1),
    )


def normalize(pictures: Tensor, normalization: image_ops.Normalization) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1).to(pictures) for values in normalization)
    return (pictures - mean) / std


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = (
        torch.sigmoid(logits / temperature).clamp(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        for logits in (teacher, student)
    )
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return divergence.mean() * temperature


def mse(one: Tensor, other: Tensor) -> Tensor:
    return F.mse_loss(one, other)


def bce(student: Tensor, mask: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, mask)


def dice(student: Tensor, mask: Tensor) -> Tensor:
    p, y = torch.sigmoid(student).flatten(1), mask.flatten(1)
    return (1 - (2 * (p * y).sum(1) + 1e-5) / (p.sum(1) + y.sum(1) + 1e-5)).mean()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(one, other, dim=1).mean()


def total(
    logits: Tensor,
    projected: Sequence[Tensor],
    mask: Tensor,
    teacher: Tensor,
    features: Sequence[Tensor],
    settings: config.Config,
    temperature: float,
    largest_feature: float = math.inf,
) -> Tensor:
    """The weighted sum of the losses.

    Args:
      largest_feature: what an MSE between features is clamped to; beyond, it has no gradient.
    """
    weights = settings.losses
    compared = {"mse": lambda *maps: mse(*maps).clamp(max=largest_feature), "cosine": cosine}
    feature = sum(
        entry.weight * compared[entry.loss](own, target)
        for entry, own, target in zip(settings.features, projected, features, strict=True)
    )
    return (
        weights.kl * kl(logits, teacher, temperature)
        + weights.mse * mse(logits, teacher)
        + weights.bce * bce(logits, mask)
        + weights.dice * dice(logits, mask)
        + weights.feature * feature
    )


class Detector:
    """The feature network in onnxruntime; arrays pass through NumPy.

    Args:
      threads: of onnxruntime on a CPU; None leaves the number to it.

    Raises:
      UserError: see `OnnxGraph`.
    """

    def __init__(
        self, settings: config.Detector, tensors: Sequence[str], threads: int | None = None
    ) -> None:
        self._normalization = image_ops.resolve(settings.normalization)
        self._network = open_network(settings.onnx, tensors, threads)

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """The tensors (N, C, h, w) of pictures (N, 3, H, W) in [0, 1]."""
        fed = normalize(pictures, self._normalization).cpu()
        chunks = fed.split(self._network.picture.batch or len(fed))
        results = [self._network(chunk.numpy()) for chunk in chunks]
        return [
            torch.cat([torch.from_numpy(part) for part in parts]).to(pictures.device)
            for parts in zip(*results, strict=True)
        ]


class Original:
    """Everything that a step of the original needs, and the step in its parts.

    Args:
      settings: with a teacher, a detector and features.
      checkpoint: the teacher's.
      threads: of onnxruntime; torch's are the process's.
    """

    def __init__(
        self, settings: config.Config, checkpoint: Path, threads: int | None = None
    ) -> None:
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, _ = export_teacher.load(checkpoint)
        self._teacher = network.to(self.device)
        self._teachers_normalization = image_ops.resolve(settings.teacher.normalization)
        self.detect = Detector(settings.detector, [f.tensor for f in settings.features], threads)
        """Pictures to features."""
        size = settings.data.image_size
        black = self.detect(torch.zeros(1, 3, *size))
        shapes = [(height, width, c) for _, c, height, width in (f.shape for f in black)]
        pairs = pair_up(settings.features, shapes, size, feature_info(settings.student))
        self.student = Student(settings.student, pairs).to(self.device).train()
        self.student.unet.encoder.requires_grad_(False)
        self._trained = [p for p in self.student.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained,
            lr=settings.training.learning_rate,
            weight_decay=settings.training.weight_decay,
        )

    def step(self, pictures: Tensor, mask: Tensor) -> None:
        """One whole step on pictures (N, 3, H, W) in [0, 1] and masks (N, 1, H, W) in {0, 1}."""
        logits, features = self.teach(pictures), self.detect(pictures)
        self.backward(self.loss(pictures, mask, logits, features))
        self.learn()

    @torch.no_grad()
    def teach(self, pictures: Tensor) -> Tensor:
        with self._precision():
            return self._teacher(normalize(pictures, self._teachers_normalization)).float()

    def loss(
        self, pictures: Tensor, mask: Tensor, logits: Tensor, features: Sequence[Tensor]
    ) -> Tensor:
        """Student, projectors and losses, forward."""
        with self._precision():
            own, projected = self.student(pictures)
        losses = self.settings.losses
        return total(
            own.float(),
            [p.float() for p in projected],
            mask,
            logits,
            features,
            self.settings,
            losses.temperature.initial,
            LARGEST_FEATURE_LOSS,
        )

    def backward(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()

    def learn(self) -> None:
        """The clip, then AdamW."""
        if (norm := self.settings.training.clip.norm) is not None:
            nn.utils.clip_grad_norm_(self._trained, norm)
        self._optimizer.step()

    def _precision(self) -> torch.autocast:
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)
