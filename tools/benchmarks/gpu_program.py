"""Compiles the steps of a configuration for an H100 on a machine without a GPU, and counts.

    python tools/benchmarks/gpu_program.py --config configs/recommended.yaml --batch 32

No data, network or weights are read. It prints what a GPU would launch in a training and in an
evaluation step, what that moves and computes, and the floor: the time that bytes or operations of
every launch take at the card's full rate. Times, numbers and cuDNN's choices need a card.

It needs JAX's CUDA plugin, which `make setup` installs in `.venv/gpu-check`, outside the
environment: JAX would look for a GPU in every program.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import abstract_step
import communication
import gpu_launches
import hlo_text
import jax
from jax.experimental import topologies
from rich.console import Console
from rich.table import Table

from jaxdistill import config
from jaxdistill.runtime import errors
from jaxdistill.runtime.sharding import Mesh

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / ".venv" / "gpu-check"
"""The folder that `make setup` installs JAX's CUDA plugin in."""
_TARGET = Path(__file__).with_name("h100.txtpb")


@dataclass(frozen=True)
class Report:
    """What a GPU launches in one step; bytes, operations and milliseconds are of one device."""

    launches: int
    graphs: int | None
    """CUDA graphs; None if XLA does not say."""
    single_launches: int | None
    """Launches outside of graphs."""
    megabytes_per_image: float
    gflop_per_image: float
    floor_ms_per_image: float
    memory_gb: float
    """Arguments, results and temporary arrays."""
    temporary_gb: float
    convolutions: int
    """Convolutions in the step as JAX hands it to XLA."""
    cudnn_calls: int
    depthwise_calls: int
    """Those of them that have groups."""
    layout_changes_mb: list[float]
    """Maps of more than a megabyte that are transposed or copied."""
    host_calls: list[str]
    """Callbacks, infeeds and other visits to the host."""
    summed_slices: list[str]
    """Sums over what the same kernel computes as a depthwise convolution."""
    collectives: dict[str, int]
    """Calls by kind, such as `all-reduce`."""
    collective_mb: float
    compile_seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments, compiles, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--batch", type=int, help="images per step (default: the configuration's)")
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs (default: 1)")
    parser.add_argument(
        "--channels", type=int, default=1024, help="channels of a detector tensor (default: 1024)"
    )
    parser.add_argument(
        "--encoder-features", action="store_true", help="the target cache has the encoder's maps"
    )
    parser.add_argument("--steps", choices=["train", "evaluate", "both"], default="both")
    parser.add_argument("--top", type=int, default=0, help="also print the N longest launches")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--save", type=Path, help="folder for the programs' text")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(arguments)
    restart_with_plugin()
    batch = [] if args.batch is None else [f"training.batch_size={args.batch}"]
    settings = config.load(args.config, [*batch, *args.overrides])
    mesh = h100s(args.gpus)
    with lowering():
        lowered = abstract_step.lower(
            settings, mesh, args.channels, encoder_features=args.encoder_features
        )
    reports = {}
    for name, step in lowered._asdict().items():
        if args.steps in (name, "both"):
            images = settings.training.images_per_step // mesh.size
            text, reports[name] = measure(step, images)
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                (args.save / f"{name}.hlo").write_text(text)
            if args.top:
                _print_longest(name, text, args.top)
    if args.json:
        print(json.dumps({name: dataclasses.asdict(report) for name, report in reports.items()}))
    else:
        _print(reports)


def h100s(count: int) -> Mesh:
    """Returns a mesh of H100s that programs can be compiled for, but not run on.

    Args:
      count: The number of GPUs.

    Raises:
      ConfigError: JAX's CUDA plugin is not installed, or of another version (`gpu-plugin`).
    """
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=_TARGET.read_text(), topology=f"1x1x{count}"
        )
    except RuntimeError as error:
        raise errors.ConfigError(
            f"JAX {jax.__version__} cannot compile for CUDA: {errors.first_line(error)}; "
            f"install its CUDA plugin with `make setup`",
            code="gpu-plugin",
        ) from error
    return Mesh(count, described.devices)


@contextmanager
def lowering() -> Iterator[None]:
    """Explains why a step with Python callbacks cannot be lowered for an absent GPU.

    Raises:
      ConfigError: The step calls back to Python (`host-callback`).
    """
    try:
        yield
    except RuntimeError as error:
        if "Unknown backend" not in str(error):
            raise
        raise errors.ConfigError(
            "the step calls Python on the host (such as jax.debug.print or jax.pure_callback), "
            "which would make a GPU wait in every step; remove the call",
            code="host-callback",
        ) from error


def measure(step: jax.stages.Lowered, images: int) -> tuple[str, Report]:
    """Compiles a step and counts what it launches.

    Args:
      step: The step, lowered for GPUs.
      images: Images per device.

    Returns:
      The text of the compiled program, and the counts.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        compiled = step.compile(compiler_options={"xla_dump_to": folder})
        thunks = list(Path(folder).glob("*.thunk_sequence_after_thunk_passes.txt"))
        graphs, single = _graphs(thunks[0].read_text()) if thunks else (None, None)
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    found = gpu_launches.launches(hlo_text.parse(text))
    memory = compiled.memory_analysis()
    sent = communication.parse(text)

    def total(field: str) -> float:
        return sum(getattr(launch, field) * launch.repetitions for launch in found)

    convolutions = [launch for launch in found if launch.groups]
    return text, Report(
        launches=sum(launch.repetitions for launch in found),
        graphs=graphs,
        single_launches=single,
        megabytes_per_image=total("bytes") / 1e6 / images,
        gflop_per_image=total("flops") / 1e9 / images,
        floor_ms_per_image=total("seconds") * 1e3 / images,
        memory_gb=(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
        / 1e9,
        temporary_gb=memory.temp_size_in_bytes / 1e9,
        convolutions=step.compiler_ir(dialect="hlo").as_hlo_text().count(" convolution("),
        cudnn_calls=len(convolutions),
        depthwise_calls=sum(launch.groups > 1 for launch in convolutions),
        layout_changes_mb=[
            changed / gpu_launches.MEGABYTE
            for launch in found
            for changed in launch.layout_changes
            if changed > gpu_launches.MEGABYTE
        ],
        host_calls=[launch.kind for launch in found if launch.host],
        summed_slices=[launch.name for launch in found if launch.sums_slices],
        collectives=sent.calls,
        collective_mb=sum(sent.bytes.values()) / 1e6,
        compile_seconds=seconds,
    )


def restart_with_plugin() -> None:
    """Restarts this process with JAX's CUDA plugin, and without looking for a GPU."""
    if os.environ.get("JAX_PLATFORMS") == "cpu" and find_spec("jax_plugins"):
        return
    if os.environ.get("JAXDISTILL_GPU_PROGRAM"):
        raise errors.ConfigError(
            f"JAX's CUDA plugin is neither in {PLUGIN} nor in this environment; run `make setup`",
            code="gpu-plugin",
        )
    paths = [str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # it cannot read programs for an absent device
        "JAXDISTILL_GPU_PROGRAM": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def _graphs(thunks: str) -> tuple[int, int]:
    """Returns the number of CUDA graphs, and of launches outside of them."""
    outer = re.findall(r"^\d+: k(\w+)", thunks, re.MULTILINE)
    graphs = outer.count("CommandBuffer")
    return graphs, len(outer) - graphs


def _print(reports: dict[str, Report]) -> None:
    table = Table("", *reports, title="A step on an H100, as compiled")
    for field in dataclasses.fields(Report):
        values = [getattr(report, field.name) for report in reports.values()]
        table.add_row(field.name.replace("_", " "), *map(_shown, values))
    Console(soft_wrap=True, highlight=False).print(table)


def _shown(value: Any) -> str:
    match value:
        case float():
            return f"{value:,.2f}"
        case dict():
            return ", ".join(f"{count} {kind}" for kind, count in value.items()) or "none"
        case list():
            each = ", ".join(map(_shown, value[:4]))
            return f"{len(value)}: {each}" if value else "none"
        case None:
            return "unknown"
        case _:
            return str(value)


def _print_longest(name: str, text: str, count: int) -> None:
    table = Table("launch", "us", "MB", "GFLOP", "operation", title=f"Longest launches: {name}")
    found = gpu_launches.launches(hlo_text.parse(text))
    for launch in sorted(found, key=lambda launch: -launch.seconds * launch.repetitions)[:count]:
        table.add_row(
            launch.name,
            f"{launch.seconds * launch.repetitions * 1e6:.1f}",
            f"{launch.bytes * launch.repetitions / 1e6:.1f}",
            f"{launch.flops * launch.repetitions / 1e9:.1f}",
            launch.op_name[-60:],
        )
    Console(soft_wrap=True, highlight=False, stderr=True).print(table)


if __name__ == "__main__":
    sys.exit(errors.command(main))
