#!/usr/bin/env python3
"""Makes the kit that `check.py` needs, on a machine without a GPU.

    python tools/benchmarks/gpu/pack.py build/gpu_check          # for a machine like this
    python tools/benchmarks/gpu/pack.py build/gpu_check --bare   # without a network

The kit is `build/gpu_check/kit`: networks with random weights, images and a teacher for a whole
run. With `--bare` it is put into pieces, together with Python packages that the other machine
lacks: `build/gpu_check/pieces`. What is there already is not made again.
"""

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import kit as kits
import pieces
import prune

HERE = Path(__file__).parent
TOOLS = kits.ROOT / "tools"
_MEGABYTE = 1 << 20
_PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and makes the kit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="a kit that rehearses on a CPU")
    parser.add_argument(
        "--python", default="python3.12", help="the machine's Python, such as python3.12"
    )
    parser.add_argument(
        "--network", type=Path, action="append", default=[], help="also measure this ONNX file"
    )
    parser.add_argument("--bare", action="store_true", help="make pieces for a bare machine")
    parser.add_argument(
        "--piece-mb", type=int, default=58, help="most MiB of a piece (default: 58)"
    )
    parser.add_argument(
        "--architecture", type=int, default=90, help="of the card: 90 is Hopper (default: 90)"
    )
    parser.add_argument("--onnxruntime", default="1.31.1", help="of onnxruntime-gpu, for --bare")
    args = parser.parse_args(arguments)
    folder = args.folder.absolute()
    kit = kits.SMALL if args.small else kits.FULL
    make(folder / "kit", kit, args.network)
    if args.bare:
        bare(folder, args)


def make(folder: Path, kit: kits.Kit, more: Sequence[Path] = ()) -> None:
    """Makes a kit.

    Args:
      folder: The kit.
      kit: Its content.
      more: Further ONNX files to measure, at the size of the others.
    """
    sys.path[:0] = [str(TOOLS / "benchmarks"), str(TOOLS / "demo")]
    import networks

    side, batch = kit.networks[0]["side"], kit.networks[0]["batch"]
    own = [dataclasses.asdict(kits.Network(f"networks/{path.name}", side, batch)) for path in more]
    kits.write(folder, dataclasses.replace(kit, networks=[*kit.networks, *own]))
    networks.write(folder / "networks", side, kit.channels, small=kit.small)
    for path in more:
        shutil.copyfile(path, folder / "networks" / path.name)
    if kit.small:
        _drawn(folder / "images")
    else:
        _demo(folder)


def bare(folder: Path, args: argparse.Namespace) -> None:
    """Puts kit, wheels and onnxruntime into pieces.

    Args:
      folder: Holds `kit`; gets `pieces`.
      args: Of the command line.
    """
    content = folder / "content"
    shutil.rmtree(content / "kit", ignore_errors=True)
    shutil.copytree(folder / "kit", content / "kit")
    _strip(content / "kit" / "networks")
    _wheels(content / "wheels", args.python)
    if not (content / "onnxruntime").exists():
        _onnxruntime(content / "onnxruntime", folder, args)
    for each in pieces.split(content, folder / "pieces", args.piece_mb * _MEGABYTE):
        print(f"{each}: {each.stat().st_size / _MEGABYTE:.1f} MiB")


def _strip(folder: Path) -> None:
    """Takes the weights out of the networks that are only measured; a run needs its teacher's."""
    import skeleton

    for path in folder.glob("*.onnx"):
        if path.name != "run_teacher.onnx" and path.stat().st_size > 8 * _MEGABYTE:
            skeleton.strip(path, path.with_name(path.name + ".skeleton"))
            path.unlink()


def _wheels(folder: Path, python: str) -> None:
    """Downloads the wheels of `missing.txt`; builds those that PyPI has as sources only."""
    if (folder / "complete").exists():
        return
    lines = (HERE / "missing.txt").read_text().splitlines()
    for package in [line for line in lines if line and not line.startswith("#")]:
        if _download(folder, python, package):
            _run(
                sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, package
            )
    (folder / "complete").touch()


def _onnxruntime(target: Path, folder: Path, args: argparse.Namespace) -> None:
    """Unpacks onnxruntime-gpu without other cards' code and without TensorRT's provider."""
    if code := _download(folder, args.python, f"onnxruntime-gpu=={args.onnxruntime}"):
        sys.exit(code)
    [wheel] = folder.glob(f"onnxruntime_gpu-{args.onnxruntime}-*.whl")
    partial = target.with_name("onnxruntime.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial)
    libraries = partial / "onnxruntime" / "capi"
    (libraries / "libonnxruntime_providers_tensorrt.so").unlink(missing_ok=True)
    path = libraries / "libonnxruntime_providers_cuda.so"
    content = bytearray(path.read_bytes())
    cleared = prune.prune(content, args.architecture)
    path.write_bytes(content)
    print(f"onnxruntime: {cleared / 1e6:.0f} of {len(content) / 1e6:.0f} MB cleared")
    partial.rename(target)


def _download(folder: Path, python: str, package: str) -> int:
    """Downloads a wheel for the machine and returns pip's exit code."""
    number = Path(python).name.removeprefix("python")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    options += [part for platform in _PLATFORMS for part in ("--platform", platform)]
    options += ["--python-version", number, "--dest", str(folder)]
    program = [sys.executable, "-m", "pip", "download", *options, package]
    return subprocess.run(program, check=False).returncode


def _drawn(root: Path) -> None:
    """Draws a few random images."""
    import drawn_images

    from jaxdistill import config

    if not root.exists():
        drawn_images.draw(root, config.Data(root=root, image_size=(64, 64)), 12)


def _demo(folder: Path) -> None:
    """Prepares the demo, which trains its teacher in minutes, and copies what a run needs of it."""
    demo = folder.parent / "demo"
    _run(sys.executable, TOOLS / "demo" / "prepare_demo.py", demo)
    import prepare_demo

    if not (folder / "images").exists():
        shutil.copytree(demo / "coco", folder / "images")
    shutil.copyfile(demo / prepare_demo.ENCODER, folder / "encoder.safetensors")
    shutil.copyfile(demo / prepare_demo.TEACHER, folder / "networks" / "run_teacher.onnx")


def _run(*program: str | Path) -> None:
    paths = [kits.ROOT, TOOLS / "benchmarks", TOOLS / "demo"]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    environment = {
        **os.environ,
        # A GPU that is not there is compiled for by a plugin of the CPU's process.
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited]),
    }
    done = subprocess.run(list(map(str, program)), env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
