"""The wheel, installed into a virtual environment of its own, works from an empty folder.

The source distribution gives the same wheel.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import tiny_run

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """Runs a command that finds the repository neither by PYTHONPATH nor by its folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy, because setuptools leaves files beside the sources, and takes up older ones.
    source = tmp_path_factory.mktemp("wheel") / "source"
    for name in ("jaxdistill", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build_wheel(source, source.parent)


def build_wheel(source: Path, folder: Path) -> Path:
    """Builds a wheel from a folder or a source distribution."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, source, cwd=folder)
    [wheel] = folder.glob("jaxdistill-*.whl")
    return wheel


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the programs of an environment with the wheel, and the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # A .pth file within a folder that is added like this is not read: an editable installation
    # of the repository stays invisible.
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", folder / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


def test_the_wheel_contains_configurations_and_templates_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"jaxdistill/configs/{path.name}" in names
    for folder in ("jaxdistill/reporting/html/templates", "jaxdistill/exporters/web"):
        for path in (ROOT / folder).iterdir():
            assert f"{folder}/{path.name}" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"jaxdistill", wheel.name.split("-py3")[0] + ".dist-info"}


def test_the_source_distribution_gives_the_same_wheel(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "source", symlinks=True)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=tmp_path / "source")
    [distribution] = tmp_path.glob("jaxdistill-*.tar.gz")
    again = build_wheel(distribution, tmp_path)
    assert again.name == wheel.name
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(distribution) as archive:
        assert not [name for name in archive.getnames() if "/tests" in name]


def test_the_package_is_imported_from_the_wheel(bin_folder: Path, empty: Path) -> None:
    printed = run(
        bin_folder / "python", "-c", "import jaxdistill as j; print(j.__file__)", cwd=empty
    )
    assert Path(printed.strip()).is_relative_to(bin_folder.parent)
    assert run(bin_folder / "jaxdistill", "--version", cwd=empty).startswith("jaxdistill ")
    assert "convert-weights" in run(bin_folder / "jaxdistill", "--help", cwd=empty)


def test_a_shipped_configuration_is_trained_measured_and_exported(
    bin_folder: Path, empty: Path, tmp_path: Path
) -> None:
    tiny_run.make(tmp_path)
    program = bin_folder / "jaxdistill"
    settings = [
        *tiny_run.overrides(tmp_path),
        "detector.normalization=unit",
        "targets.cache=cache",
        "training.epochs=1",
        "training.batch_size=2",
        "training.steps_per_epoch=2",
        "run=run",
    ]
    run(program, "train", "--config", "demo", *settings, cwd=empty)
    assert "<html" in (empty / "run" / "report.html").read_text()
    assert "mIoU" in run(program, "evaluate", "run", cwd=empty)
    run(program, "predict", "run", tmp_path / "coco", "--output", "found", cwd=empty)
    assert list((empty / "found" / "masks").rglob("*.png"))
    run(program, "export", "run", "student.onnx", cwd=empty)
    assert (empty / "student.onnx").is_file()
    assert run(program, "report", "run", cwd=empty).strip().endswith("report.html")
