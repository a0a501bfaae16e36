"""The original's student and its training step in PyTorch, with our decisions where we decided
otherwise: a frozen encoder is in eval mode, and the feature loss is not clamped.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch_original
from torch import Tensor, nn
from torch.nn import functional as F
from torch_original import total

from jaxdistill import config
from jaxdistill.models.student import Pair, param_group
from jaxdistill.torch_interop import parameter_names


class TorchStudent(torch_original.Student):
    """Without stochastic depth, which ours lacks; and it takes our variables."""

    def __init__(self, settings: config.Student, pairs: Sequence[Pair]) -> None:
        super().__init__(settings, pairs)
        for module in self.unet.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0

    def load(self, variables: Mapping[str, np.ndarray]) -> "TorchStudent":
        """Our variables, every one of them."""
        self.load_state_dict(self.names(variables), strict=True)
        return self

    def names(self, variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Our variables (or their gradients, or moments) by this module's names."""
        own = {k: np.asarray(v) for k, v in variables.items() if param_group(k) != "projectors"}
        tensors = {f"unet.{k}": v for k, v in parameter_names.to_torch(own).items()}
        for index, pair in enumerate(self.pairs):
            prefix = f"projectors.{index}"
            layers = {"hidden": "0", "norm": "1", "output": "3"} if pair.hidden else {"output": "0"}
            for ours, theirs in layers.items():
                inner = {
                    f"{ours}.{k.rpartition('.')[2]}": np.asarray(v)
                    for k, v in variables.items()
                    if k.startswith(f"{prefix}.{ours}.")
                }
                for name, array in parameter_names.to_torch(inner).items():
                    tensors[f"{prefix}.{theirs}.{name.rpartition('.')[2]}"] = array
        return {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}


def kl_without_clamp(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The same in float64 and from log-sigmoids, for logits where the clamp would bite."""
    s, t = student.double() / temperature, teacher.double() / temperature
    divergence = torch.sigmoid(t) * (F.logsigmoid(t) - F.logsigmoid(s)) + torch.sigmoid(-t) * (
        F.logsigmoid(-t) - F.logsigmoid(-s)
    )
    return divergence.mean() * temperature


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
