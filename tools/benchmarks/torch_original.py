"""The training step of the PyTorch original, written anew, as the baseline of the benchmark.

It follows the original also where jaxdistill differs: the frozen encoder gets no gradient, but its
BatchNorms keep updating their statistics and its drop path stays on; the feature loss is clamped;
teacher and student run in eager mode, and the detector in onnxruntime.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from onnx_network import open_network
from torch import Tensor, nn
from torch.nn import functional as F

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import feature_info
from jaxdistill.models.feature_pairs import Pair, pair_up
from jaxdistill.torch_interop import export_teacher, smp_networks

MAX_FEATURE_LOSS = 10.0
_PROBABILITY_MARGIN = 1e-7


class Student(nn.Module):
    """SMP's UNet and the projectors: images (N, 3, H, W) in [0, 1] to logits and projections."""

    def __init__(self, settings: config.Student, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.normalization = image_ops.resolve(settings.normalization or "imagenet")
        channels = {info.name: info.channels for info in feature_info(settings)}
        decoder = [count for name, count in channels.items() if name.startswith("decoder.")]
        self.unet = smp_networks.unet(settings.encoder, decoder)
        self.pairs = pairs
        self.projectors = nn.ModuleList(
            projector(channels[pair.tap], pair.channels, pair.hidden) for pair in pairs
        )

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, maps = self.feature_maps(images)
        projected = [p(maps[pair.tap]) for p, pair in zip(self.projectors, self.pairs, strict=True)]
        return logits, projected

    def feature_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the logits, and the feature maps by the names that our student uses."""
        features = self.unet.encoder(normalize(images, self.normalization))
        maps = {f"encoder.{i}": each for i, each in enumerate(features) if i > 0}
        # Block by block: with forward hooks, torch.compile would break the network into pieces.
        decoder, skips = self.unet.decoder, features[-2:0:-1]
        values = decoder.center(features[-1])
        for i, block in enumerate(decoder.blocks):
            height, width = features[-2 - i].shape[2:]
            skip = skips[i] if i < len(skips) else None
            values = maps[f"decoder.{i}"] = block(values, height, width, skip_connection=skip)
        return self.unet.segmentation_head(values), maps


def projector(inputs: int, outputs: int, hidden: int | None) -> nn.Sequential:
    """Builds a projector from a feature map's channels to those of its target."""
    if hidden is None:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1))
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1),
    )


def normalize(images: Tensor, normalization: image_ops.Normalization) -> Tensor:
    """Normalises images (N, 3, H, W) in [0, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(images) for values in normalization)
    return (images - mean) / std


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Computes the KL divergence of the softened probabilities, times the temperature."""
    p, q = (
        torch.sigmoid(logits / temperature).clamp(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        for logits in (teacher, student)
    )
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return divergence.mean() * temperature


def mse(one: Tensor, other: Tensor) -> Tensor:
    """Computes the mean squared difference."""
    return F.mse_loss(one, other)


def bce(student: Tensor, mask: Tensor) -> Tensor:
    """Computes the binary cross entropy of logits."""
    return F.binary_cross_entropy_with_logits(student, mask)


def dice(student: Tensor, mask: Tensor) -> Tensor:
    """Computes the Dice loss of logits, averaged over the images."""
    p, y = torch.sigmoid(student).flatten(1), mask.flatten(1)
    return (1 - (2 * (p * y).sum(1) + 1e-5) / (p.sum(1) + y.sum(1) + 1e-5)).mean()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Computes one minus the cosine similarity over channels."""
    return 1 - F.cosine_similarity(one, other, dim=1).mean()


def total(
    logits: Tensor,
    projected: Sequence[Tensor],
    mask: Tensor,
    teacher: Tensor,
    features: Sequence[Tensor],
    settings: config.Config,
    temperature: float,
    max_feature_loss: float = math.inf,
) -> Tensor:
    """Computes the weighted sum of the losses.

    Args:
      logits: The student's.
      projected: The student's projected feature maps.
      mask: Ground truth.
      teacher: The teacher's logits.
      features: The detector's feature maps.
      settings: The weights.
      temperature: That of the KL loss.
      max_feature_loss: Value at which an MSE of features is clamped, without gradient beyond it.
    """
    weights = settings.losses
    compared = {"mse": lambda *maps: mse(*maps).clamp(max=max_feature_loss), "cosine": cosine}
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
      settings: The file and its normalisation.
      tensors: Names of its tensors.
      threads: Number of onnxruntime's threads on a CPU; None leaves it to onnxruntime.

    Raises:
      NetworkError: See `OnnxGraph`.
    """

    def __init__(
        self, settings: config.Detector, tensors: Sequence[str], threads: int | None = None
    ) -> None:
        self._normalization = image_ops.resolve(settings.normalization)
        self._network = open_network(settings.onnx, tensors, threads)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Computes the tensors (N, C, h, w) of images (N, 3, H, W) in [0, 1]."""
        normalized = normalize(images, self._normalization).cpu()
        chunks = normalized.split(self._network.image.batch or len(normalized))
        results = [self._network(chunk.numpy()) for chunk in chunks]
        return [
            torch.cat([torch.from_numpy(part) for part in parts]).to(images.device)
            for parts in zip(*results, strict=True)
        ]


class Original:
    """All networks of the original, and its training step in parts.

    Args:
      settings: A configuration with a teacher, a detector and features.
      checkpoint: The teacher's checkpoint.
      threads: Number of onnxruntime's threads; torch's are a setting of the process.
    """

    def __init__(
        self, settings: config.Config, checkpoint: Path, threads: int | None = None
    ) -> None:
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, _ = export_teacher.load(checkpoint)
        self._teacher = network.to(self.device)
        self._teacher_normalization = image_ops.resolve(settings.teacher.normalization)
        self.detector = Detector(settings.detector, [f.tensor for f in settings.features], threads)
        size = settings.data.image_size
        black = self.detector(torch.zeros(1, 3, *size))
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

    def compile(self, backend: str) -> None:
        """Lets `torch.compile` make programs of the teacher, and of the student with its losses."""
        for network in (self._teacher, self.student):
            network.to(memory_format=torch.channels_last)
        self._teacher = torch.compile(self._teacher, backend=backend)
        self.loss = torch.compile(self.loss, backend=backend)

    def train_step(self, images: Tensor, masks: Tensor) -> None:
        """Takes a step on images (N, 3, H, W) in [0, 1] and masks (N, 1, H, W) in {0, 1}."""
        logits, features = self.teacher(images), self.detector(images)
        self.backward(self.loss(images, masks, logits, features))
        self.update()

    @torch.no_grad()
    def teacher(self, images: Tensor) -> Tensor:
        """Computes the teacher's logits."""
        with self._precision():
            return self._teacher(normalize(images, self._teacher_normalization)).float()

    def loss(
        self, images: Tensor, masks: Tensor, logits: Tensor, features: Sequence[Tensor]
    ) -> Tensor:
        """Runs student, projectors and losses."""
        with self._precision():
            own, projected = self.student(images)
        losses = self.settings.losses
        return total(
            own.float(),
            [p.float() for p in projected],
            masks,
            logits,
            features,
            self.settings,
            losses.temperature.initial,
            MAX_FEATURE_LOSS,
        )

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients."""
        self._optimizer.zero_grad()
        loss.backward()

    def update(self) -> None:
        """Clips the gradients and takes AdamW's step."""
        if (norm := self.settings.training.clip.norm) is not None:
            nn.utils.clip_grad_norm_(self._trained, norm)
        self._optimizer.step()

    def _precision(self) -> torch.autocast:
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)
