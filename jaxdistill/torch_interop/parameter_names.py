"""One-to-one mapping between the student's variables and PyTorch's tensors: names and layouts.

This module does not need torch. The names on PyTorch's side are those of
segmentation_models_pytorch's `Unet.state_dict()`; below `encoder.` they are timm's.
`num_batches_tracked` has no influence at BatchNorm's fixed momentum: it is dropped when weights are
imported, and is 0 when they are exported.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from jaxdistill.models import weights
from jaxdistill.runtime.errors import WeightsError

Arrays = dict[str, np.ndarray]
Shaped = Mapping[str, Any]
"""Values by name of which only the shape is used."""
T = TypeVar("T", bound=Any)

_COUNTER = "num_batches_tracked"
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(path: str) -> str:
    """Returns the name of a variable in SMP's state dict.

    Args:
      path: The variable's path, such as `decoder.blocks.0.conv1.norm.mean`, which becomes
        `decoder.blocks.0.conv1.1.running_mean`.
    """
    module, _, leaf = path.rpartition(".")
    module = re.sub(r"^head$", "segmentation_head.0", module)
    module = re.sub(r"^(decoder\..*)\.conv$", r"\1.0", module)
    module = re.sub(r"^(decoder\..*)\.norm$", r"\1.1", module)
    return f"{module}.{_LEAVES[leaf]}"


def to_torch(variables: Mapping[str, np.ndarray]) -> Arrays:
    """Converts variables to a state dict.

    Args:
      variables: Arrays by path; kernels are HWIO.

    Returns:
      Arrays by SMP's names; kernels are OIHW, and counters are 0.
    """
    tensors = {}
    for path, array in variables.items():
        name = torch_name(path)
        tensors[name] = _to_oihw(array)
        if path.endswith(".var"):
            tensors[name.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    return tensors


def from_torch(tensors: Mapping[str, np.ndarray], expected: Shaped, source: str) -> Arrays:
    """Converts a state dict to variables.

    Args:
      tensors: The state dict of an SMP UNet, or of an encoder alone; kernels are OIHW.
      expected: The variables by path; every tensor must become one of them.
      source: Where the tensors come from, for messages.

    Returns:
      Arrays by path; kernels are HWIO.

    Raises:
      WeightsError: Tensors are missing, left over, or of another shape (`weights-mismatch`); the
        message names the first of each.
    """
    own = {name: array for name, array in tensors.items() if not _is_counter(name, tensors)}
    fitting = {torch_name(path): _to_oihw(np.asarray(array)) for path, array in expected.items()}
    weights.fill(fitting, own, source)
    return {path: _to_hwio(own[torch_name(path)]) for path in expected}


def rename_in_order(tensors: Mapping[str, T], names: Shaped, source: str) -> dict[str, T]:
    """Renames tensors by their position.

    It serves files that hold timm's tensors in timm's order under other names.

    Args:
      tensors: Arrays or tensors by their old name.
      names: Values of the same shapes by the new name, in the same order.
      source: Where the tensors come from, for messages.

    Returns:
      The same tensors by their new name.

    Raises:
      WeightsError: The numbers, or the kind or shape of a pair, differ (`weights-mismatch`).
    """
    if len(tensors) != len(names):
        raise WeightsError(
            f"{source}: expected {len(names)} tensors, found {len(tensors)}",
            code="weights-mismatch",
        )
    for (old, tensor), (new, wanted) in zip(tensors.items(), names.items(), strict=True):
        if _kind(old) != _kind(new) or tensor.shape != wanted.shape:
            raise WeightsError(
                f"{source}: {old} {tuple(tensor.shape)} does not fit {new} {tuple(wanted.shape)}",
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
