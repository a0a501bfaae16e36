"""The original's student and its training step in PyTorch, written from the specification.

With our decisions where we decided otherwise: a frozen encoder is in eval mode, and the feature
loss is not clamped.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import smp_networks
import torch
import torch_names
from torch import Tensor, nn
from torch.nn import functional as F

from jaxdistill import config
from jaxdistill.models.student import Pair, group_of

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchStudent(nn.Module):
    """SMP's UNet and the projectors; pictures (N, 3, H, W) in [0, 1] to logits and projections."""

    def __init__(self, settings: config.Student, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.unet = smp_networks.unet(settings.encoder, settings.decoder_channels)
        for module in self.unet.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0  # ours has no stochastic depth
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
        mean, std = (torch.tensor(v).to(pictures.dtype).view(3, 1, 1) for v in IMAGENET)
        features = self.unet.encoder((pictures - mean) / std)
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

    def load(self, variables: Mapping[str, np.ndarray]) -> "TorchStudent":
        """Our variables, every one of them."""
        self.load_state_dict(self.names(variables), strict=True)
        return self

    def names(self, variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Our variables (or their gradients, or moments) by this module's names."""
        own = {k: np.asarray(v) for k, v in variables.items() if group_of(k) != "projectors"}
        tensors = {f"unet.{k}": v for k, v in torch_names.to_torch(own).items()}
        for index, pair in enumerate(self.pairs):
            prefix = f"projectors.{index}"
            layers = {"hidden": "0", "norm": "1", "output": "3"} if pair.hidden else {"output": "0"}
            for ours, theirs in layers.items():
                inner = {
                    f"{ours}.{k.rpartition('.')[2]}": np.asarray(v)
                    for k, v in variables.items()
                    if k.startswith(f"{prefix}.{ours}.")
                }
                for name, array in torch_names.to_torch(inner).items():
                    tensors[f"{prefix}.{theirs}.{name.rpartition('.')[2]}"] = array
        return {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}


def projector(inputs: int, outputs: int, hidden: int | None) -> nn.Sequential:
    if hidden is None:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1))
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1),
    )


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = torch.sigmoid(teacher / temperature).clamp(1e-7, 1 - 1e-7)
    q = torch.sigmoid(student / temperature).clamp(1e-7, 1 - 1e-7)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return divergence.mean() * temperature


def kl_without_clamp(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The same in float64 and from log-sigmoids, for logits where the clamp would bite."""
    s, t = student.double() / temperature, teacher.double() / temperature
    divergence = torch.sigmoid(t) * (F.logsigmoid(t) - F.logsigmoid(s)) + torch.sigmoid(-t) * (
        F.logsigmoid(-t) - F.logsigmoid(-s)
    )
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
) -> Tensor:
    weights = settings.losses
    compared = {"mse": mse, "cosine": cosine}
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


def temperature_of(settings: config.Temperature, epoch: int, epochs: int) -> float:
    first, last = settings.initial, settings.final
    if epochs == 1:
        return last
    progress = epoch / (epochs - 1)
    return {
        "linear": first + (last - first) * progress,
        "cosine": last + (first - last) * (1 + math.cos(math.pi * progress)) / 2,
        "exponential": first * (last / first) ** progress,
    }[settings.schedule]


class Trainer:
    """Whole training steps. What is frozen is in eval mode and gets no gradient."""

    def __init__(self, student: TorchStudent, settings: config.Config, frozen: set[str]) -> None:
        """`frozen` are names of the student's parameters."""
        self.student, self.settings = student, settings
        student.train()
        for name, module in student.named_modules():
            if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" in frozen:
                module.eval()
        for name, parameter in student.named_parameters():
            parameter.requires_grad = name not in frozen
        self.trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
        training = settings.training
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, T_max=training.epochs, eta_min=training.final_learning_rate
        )

    def gradients(
        self,
        pictures: Tensor,
        mask: Tensor,
        teacher: Tensor,
        features: Sequence[Tensor],
        epoch: int,
    ) -> dict[str, Tensor]:
        """Leaves them in the parameters, too."""
        self.optimizer.zero_grad()
        temperature = temperature_of(
            self.settings.losses.temperature, epoch, self.settings.training.epochs
        )
        outputs = self.student(pictures)
        self.loss = total(*outputs, mask, teacher, features, self.settings, temperature)
        self.loss.backward()
        return {name: parameter.grad.clone() for name, parameter in self.trained.items()}

    def step(self, *batch: object, epoch: int) -> None:
        self.gradients(*batch, epoch)
        if (norm := self.settings.training.clip.norm) is not None:
            nn.utils.clip_grad_norm_(self.trained.values(), norm)
        self.optimizer.step()

    def everything(self) -> dict[str, dict[str, Tensor]]:
        """All that a step changes, by kind and name."""
        state = self.optimizer.state
        measured = {
            name
            for name, module in self.student.named_modules()
            if isinstance(module, nn.BatchNorm2d) and module.training
        }
        return {
            "parameters": {n: p.detach().clone() for n, p in self.trained.items()},
            "first moments": {n: state[p]["exp_avg"].clone() for n, p in self.trained.items()},
            "second moments": {n: state[p]["exp_avg_sq"].clone() for n, p in self.trained.items()},
            "running statistics": {
                name: tensor.clone()
                for name, tensor in self.student.named_buffers()
                if "running" in name and name.rpartition(".")[0] in measured
            },
        }
