"""Our variables and PyTorch's tensors, one to one: names and layouts. Needs no torch.

The names on PyTorch's side are those of segmentation_models_pytorch's `Unet.state_dict()`; below
`encoder.` they are timm's. `num_batches_tracked` plays no role at BatchNorm's fixed momentum: it is
left behind on the way here, and is 0 on the way back.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill.models import weights
from jaxdistill.runtime.errors import WeightsError

Arrays = dict[str, np.ndarray]
Shaped = Mapping[str, Any]  # whatever has a shape

_COUNTER = "num_batches_tracked"
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(path: str) -> str:
    """SMP's name of a variable.

    `decoder.blocks.0.conv1.norm.mean` is `decoder.blocks.0.conv1.1.running_mean`.
    """
    module, _, leaf = path.rpartition(".")
    module = re.sub(r"^head$", "segmentation_head.0", module)
    module = re.sub(r"^(decoder\..*)\.conv$", r"\1.0", module)
    module = re.sub(r"^(decoder\..*)\.norm$", r"\1.1", module)
    return f"{module}.{_LEAVES[leaf]}"


def to_torch(variables: Mapping[str, np.ndarray]) -> Arrays:
    """Variables by dotted path to a state dict: kernels HWIO to OIHW, counters 0."""
    tensors = {}
    for path, array in variables.items():
        name = torch_name(path)
        tensors[name] = _to_oihw(array)
        if path.endswith(".var"):
            tensors[name.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    return tensors


def from_torch(tensors: Mapping[str, np.ndarray], expected: Shaped, source: str) -> Arrays:
    """A state dict to variables by dotted path: kernels OIHW to HWIO.

    Args:
      tensors: of an SMP UNet, or of its encoder with `encoder.` before every name.
      expected: the variables by path; every tensor must become one of them.
      source: named in errors.

    Raises:
      UserError: names the first tensors that are missing, left over, or of another shape.
    """
    own = {name: array for name, array in tensors.items() if not _is_counter(name, tensors)}
    fitting = {torch_name(path): _to_oihw(np.asarray(array)) for path, array in expected.items()}
    weights.fill(fitting, own, source)
    return {path: _to_hwio(own[torch_name(path)]) for path in expected}


def rename_in_order(tensors: Mapping[str, np.ndarray], names: Shaped, source: str) -> Arrays:
    """The same tensors under other names, matched by position.

    For networks that hold timm's tensors in timm's order under names of their own. Kind and shape
    of every pair must agree.

    Raises:
      UserError: names the first pair that does not.
    """
    if len(tensors) != len(names):
        raise WeightsError(
            f"{source} holds {len(tensors)} tensors instead of {len(names)}",
            code="weights-mismatch",
        )
    for (old, tensor), (new, wanted) in zip(tensors.items(), names.items(), strict=True):
        if _kind(old) != _kind(new) or tensor.shape != wanted.shape:
            raise WeightsError(
                f"{source}: {old} {tensor.shape} cannot be {new} {wanted.shape}",
                code="weights-mismatch",
            )
    return dict(zip(names, tensors.values(), strict=True))


def _is_counter(name: str, tensors: Mapping[str, np.ndarray]) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == _COUNTER and f"{module}.running_var" in tensors


def _to_oihw(kernel: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)) if kernel.ndim == 4 else kernel


def _to_hwio(tensor: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0)) if tensor.ndim == 4 else tensor


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
