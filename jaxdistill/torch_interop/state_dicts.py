"""The weights of one network, from what training scripts save."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from jaxdistill.runtime.errors import WeightsError
from jaxdistill.runtime.text import printable

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

_HOLDERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),  # timm's rule: the EMA if there
    *("state_dict", "model_state_dict", "model", "net", "network", "module"),
)
_DEEPEST = 4  # dictionaries within each other; a file may hold one that holds itself
_NETWORK = re.compile(
    r"((?:[^.]+\.)*?)(?:encoder|decoder|segmentation_head|classification_head|conv_stem|blocks)\."
)
"""The name of a tensor of a UNet or an EfficientNet, and what a training script put before it."""
_WRAPPED = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What PyTorch and training scripts put before all names."""


def of(content: Any, source: str) -> Tensors:
    """Returns the tensors of the network in what a file holds, floats as float32.

    Args:
      content: What the file holds: tensors by name, or a dictionary that holds such a dictionary.
      source: The file, for messages.

    Raises:
      WeightsError: It holds something else (`not-a-state-dict`), or several networks
        (`several-networks`).
    """
    for _ in range(_DEEPEST):
        held = next((name for name in _HOLDERS if _holds(content, name)), None)
        content = content if held is None else content[held]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{source}: expected a dictionary of tensors, found {type(content).__name__}",
            code="not-a-state-dict",
        )
    others = [
        str(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value))
    ]
    if others:
        raise WeightsError(
            f"{source}: expected tensors under {', '.join(_HOLDERS)} or at the top level; "
            f"{others[0]!r} is not one",
            code="not-a-state-dict",
        )
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in _of_network(content, source).items()
    }


def _holds(content: Any, name: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(name), Mapping)


def _of_network(tensors: Mapping[str, Tensor], source: str) -> Tensors:
    """Returns the tensors of the one network in a state dict, without what all names begin with."""
    found = {match[1] for name in tensors if (match := _NETWORK.match(name))}
    if len(found) > 1 and "" not in found:
        raise WeightsError(
            f"{source}: holds several networks, {', '.join(sorted(found))}; save the state_dict of "
            f"one of them",
            code="several-networks",
        )
    prefix = "" if "" in found else next(iter(found), _wrapping(tensors))
    left = [name for name in tensors if not name.startswith(prefix)]
    if left:
        log.warning(
            "%s: %d tensors beside the network %s are left over: %s",
            source,
            len(left),
            prefix,
            printable(", ".join(left[:5]) + (", ..." if len(left) > 5 else "")),
        )
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}


def _wrapping(names: Iterable[str]) -> str:
    """Returns the known prefixes that all names have in common."""
    rest, prefix = list(names), ""
    while one := next((w for w in _WRAPPED if all(n.startswith(w) for n in rest)), ""):
        rest, prefix = [name.removeprefix(one) for name in rest], prefix + one
    return prefix


def _is_plain(tensor: Tensor) -> bool:
    """Returns whether every element is stored, as opposed to one value that is repeated."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    if tensor.is_conj() or tensor.is_neg():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
