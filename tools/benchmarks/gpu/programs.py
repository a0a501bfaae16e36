"""Training steps that are compiled on one machine and measured on another.

    python tools/benchmarks/gpu/programs.py compile KIT    # without a GPU
    python tools/benchmarks/gpu/programs.py measure        # a stage of check.py: nothing compiles

Both machines need the same version of JAX. A program that was compiled without a GPU has cuDNN's
algorithms as its heuristics choose them, not as measurements do: what tuning brings is the
difference to the stage `step`.
"""

import json
import sys
import time
from pathlib import Path

import gpu_program
import jax
import kit as kits
import results
import step_program
from jax.experimental import serialize_executable

from jaxdistill.runtime.sharding import Mesh

_FOLDER = "programs"


def compile_all(folder: Path) -> None:
    """Compiles the programs of a kit that it does not have yet.

    Args:
      folder: The kit.
    """
    kit = kits.read(folder)
    # On a CPU, a program that was read from the compilation cache cannot be serialised again.
    jax.config.update("jax_enable_compilation_cache", False)
    mesh = gpu_program.h100s(1) if kit.target == "h100" else Mesh(1)
    (folder / _FOLDER).mkdir(exist_ok=True)
    for precision, batch in kit.programs:
        path = folder / _FOLDER / f"{precision}-{batch}.json"
        if path.exists():
            continue
        with gpu_program.lowering():
            step = step_program.lower(kit, precision, batch, mesh)
        start = time.perf_counter()
        compiled = step.compile()
        seconds = time.perf_counter() - start
        executable, _, results_tree = serialize_executable.serialize(compiled)
        about = {
            "precision": precision,
            "batch": batch,
            "jax": jax.__version__,
            "specs": step_program.specs(step),
            "state_size": step_program.state_size(step),
            "result_size": results_tree.num_leaves,
            "seconds": seconds,
        }
        path.with_suffix(".hlo").write_text(compiled.as_text())
        path.with_suffix(".executable").write_bytes(executable)
        path.write_text(json.dumps(about))  # last: it says that the others are complete
        print(f"{path.stem}: compiled in {seconds:.0f} s, {len(executable) / 1e6:.1f} MB")


def measure_all(folder: Path) -> None:
    """Loads and times the programs of a kit.

    Args:
      folder: The kit.
    """
    found = sorted(
        (folder / _FOLDER).glob("*.json"), key=lambda path: json.loads(path.read_text())["batch"]
    )
    if not found:
        results.record("program", skipped="the kit has no programs")
    for path in found:
        try:
            _measure(path, kits.read(folder))
        except Exception as error:
            results.record_error("program", error, name=path.stem)


def _measure(path: Path, kit: kits.Kit) -> None:
    about = json.loads(path.read_text())
    if about["jax"] != jax.__version__:
        raise RuntimeError(f"compiled by JAX {about['jax']}, this is JAX {jax.__version__}")
    specs = [step_program.Spec(path, tuple(shape), dtype) for path, shape, dtype in about["specs"]]
    size = about["state_size"]
    start = time.perf_counter()
    # Flat arguments and results: the trees would need this project's classes to be pickled.
    program = serialize_executable.deserialize_and_load(
        path.with_suffix(".executable").read_bytes(),
        jax.tree.structure(((0,) * len(specs), {})),
        jax.tree.structure([0] * about["result_size"]),
        execution_devices=jax.devices()[:1],
    )
    loaded = time.perf_counter() - start
    arrays = step_program.random_arrays(specs)
    state, rest = arrays[:size], arrays[size:]
    del arrays

    def step(state: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        outputs = program(*state, *rest)
        return outputs[:size], outputs[size:]

    found = step_program.timed(step, state, kit)
    text = path.with_suffix(".hlo").read_text()
    counted = step_program.count(text, jax.devices()[0].device_kind)
    results.record(
        "program",
        precision=about["precision"],
        load_s=round(loaded, 2),
        **step_program.result(about["batch"], counted, found),
    )


def main() -> None:
    """Compiles or measures."""
    if sys.argv[1] == "compile":
        folder = Path(sys.argv[2])
        if kits.read(folder).target == "h100":
            gpu_program.restart_with_plugin()
        compile_all(folder)
    else:
        _, folder = kits.opened()
        measure_all(folder)


if __name__ == "__main__":
    main()
