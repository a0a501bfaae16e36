"""README and docs: commands run, links lead somewhere, keys exist, quoted messages are real.

Fast: every command is parsed by the program that it names, and its configuration is checked. Slow:
the commands of each document are run in order, where a reader would, with tiny networks and
pictures under the names that the document gives.
"""

import argparse
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import clips
import coco_folders
import numpy as np
import onnx
import pytest
import tiny_run
from documents import DOCUMENTS, Command, blocks, commands, document_name, prose
from PIL import Image

from jaxdistill import config
from jaxdistill.commands import export, train
from jaxdistill.config.reference import table
from jaxdistill.data.splits import open_split
from jaxdistill.models import student, weights

ROOT = tiny_run.ROOT
NOT_RUN = {
    r"curl |unzip ": "gigabytes from the internet; the names are those that COCO's files have",
    r"\S*pip |\S*python -m pip ": "would change the environment that the tests run in",
    r"jaxdistill export \S+ \S+\.tflite": "needs TensorFlow; test_extras.py has it",
    r"jaxdistill export \S+ page[-\w]*/": "downloads onnxruntime-web; test_web_page.py does not",
    r"source ": "the tests have an environment already",
    r"\S*pytest ": "tests of their own",
    r"make ": "the whole of it: CI runs make itself",
    r"\S*python tools/demo/prepare_demo.py": "minutes: it is what `make demo` runs",
    r"\S*(python -m jaxdistill.|jaxdistill )train --config demo": "`make demo` prepares it",
    r"python tools/demo/make_page|rm -r build/demo": "test_demo.py runs it",
    r"npm |tar ": "a package from the internet",
    r"rembg |cp |mkdir -p ~": "programs and folders of a user's; test_recipes.py does what they do",
    r"jaxdistill convert-weights from-mediapipe": "needs what that package holds",
    r".*two_teachers": "names sizes that the tests' networks do not take",
    r".*(two|three)_networks|.*labels/masks": "networks that agree; test_label_free.py has them",
    r"jaxdistill (export runs/(small/0|browser_m)|average \S+ (more|small))": "students of these",
    r"jaxdistill (evaluate runs/small_pseudo|convert-weights transpose small)": "of these, too",
    r"jaxdistill export STUDENT": "a student of the reader's",
    r".*selfie_bn": "needs weights that a program in the text makes",
    r"jaxdistill convert-weights encoder timm-": "fetches weights from a model hub",
    r"\S*python tools/ablation/": "hours; test_ablate.py runs it",
    r"jaxdistill evaluate runs/cameras": "a run that tools/ablation makes",
    r"jaxdistill (average|export|evaluate) infrared": "the mean of such runs",
    r"(\w+=\S+ )?\S*python3? tools/benchmarks/(benchmark_|clip|gpu)": "tests/tools runs them",
    r"python tools/benchmarks/runtimes": "test_runtimes.py runs it",
    r"python tools/benchmarks/page_rate": "tests/exporters/browser runs it",
    r"python tools/benchmarks/compare": "test_compare.py runs it",
    r"git clone |python tools/benchmarks/people": "a repository of images; test_people.py runs it",
}
"""Commands that the slow test leaves out, and why."""

TINY = ["data.image_size=[64, 64]", "training.epochs=2", "training.batch_size=4"]
"""What a command's configuration is shrunk by, besides the decoder's channels."""
CHANNELS = [16, 8, 8, 4, 4]


ALL = [command for document in DOCUMENTS for command in commands(document)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configurations: ours, and those written out in documents."""
    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", place / "configs")
    for document in DOCUMENTS:
        for block in blocks(document, "yaml"):
            if named := re.match(r"# (configs/\S+\.yaml)\n", block):
                (place / named[1]).write_text(block)
    (place / "my_encoder.py").write_text(blocks(ROOT / "docs/extending.md", "python")[0])
    (place / "my.yaml").write_text("extends: recommended\ndata: {root: PATH/TO/COCO}\n")
    return place


class Parsed(BaseException):
    """A program has read its command line; it goes no further."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, place: Path) -> Callable[[Command], argparse.Namespace]:
    """Starts the program of a command, as Python does, until it has parsed its arguments."""

    def stopping(parse: Callable) -> Callable:
        def wrapped(*arguments: object) -> None:
            raise Parsed(parse(*arguments))

        return wrapped

    def parse(command: Command) -> argparse.Namespace:
        program = command.program
        assert program is not None
        name, *arguments = program[1:] if program[0] == "-m" else program
        with monkeypatch.context() as patch:
            for method in ("parse_args", "parse_intermixed_args"):
                original = getattr(argparse.ArgumentParser, method)
                patch.setattr(argparse.ArgumentParser, method, stopping(original))
            patch.setattr(sys, "argv", [name, *arguments])
            patch.chdir(place)
            try:
                if program[0] == "-m":
                    runpy.run_module(name, run_name="__main__", alter_sys=True)
                else:
                    pytest.importorskip("torch", reason="needs the torch extra")
                    runpy.run_path(str(ROOT / name), run_name="__main__")
            except Parsed as parsed:
                return parsed.given
        return argparse.Namespace()  # it takes no arguments

    return parse


def settings(given: argparse.Namespace) -> config.Config | None:
    """The configuration that a command line stands for, in the current folder."""
    overrides = getattr(given, "overrides", [])
    if file := getattr(given, "config", None):
        return config.load(file, overrides)
    return config.load(tiny_run.SPECIFIED, overrides) if overrides else None


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", [c for c in ALL if c.program], ids=str)
def test_a_command_of_python_s_is_understood(
    command: Command, place: Path, parse: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = command.program
    assert program is not None
    if program[0] == "-c":
        compile(program[1], command.line, "exec")
    elif program[:2] != ["-m", "pip"]:
        given = parse(command)
        monkeypatch.chdir(place)
        settings(given)


def test_targets_of_make_exist() -> None:
    named = {tuple(c.words) for c in ALL if c.words[0] == "make"}
    assert ("make", "test") in named
    for words in named:
        done = subprocess.run([*words, "--just-print"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_blocks_are_what_they_say(document: Path, place: Path, tmp_path: Path) -> None:
    for block in blocks(document, "sh"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for block in blocks(document, "python"):
        compile(block, str(document), "exec")
    for block in blocks(document, "yaml"):
        if named := re.match(r"# (configs/\S+\.yaml)\n", block):
            config.load(place / named[1])
        else:  # a few keys, over the configuration of the specification
            (tmp_path / "part.yaml").write_text(f"extends: {tiny_run.SPECIFIED}\n{block}")
            config.load(tmp_path / "part.yaml")


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_configurations_that_ship_are_valid(file: Path) -> None:
    config.load(file)


def test_folders_of_masks_are_read_with_the_documented_keys(tmp_path: Path) -> None:
    root = coco_folders.discs(tmp_path / "coco")
    prepared = tmp_path / "prepared"
    drawn = {
        split: open_split(config.Data(root=root, prepared=prepared), split)
        for split in ("train", "validation")
    }
    documented = blocks(ROOT / "docs/how_to/data.md", "yaml")
    [block] = [each for each in documented if "mask_folder" in each]
    (tmp_path / "mine.yaml").write_text("extends: recommended\n" + block)
    at = [f"data.root={tmp_path}", f"data.prepared={prepared}"]
    data = config.load(tmp_path / "mine.yaml", at).data
    for split, examples in drawn.items():
        where = getattr(data, split)
        shutil.copytree(root / getattr(config.Data(), split).images, tmp_path / where.images)
        (tmp_path / where.annotations).mkdir(parents=True)
        for name, example in zip(examples.names, examples, strict=True):
            Image.fromarray(example.mask).save(tmp_path / where.annotations / name)
        found = open_split(data, split)
        assert sorted(found.names) == sorted(examples.names)
        for name, example in zip(found.names, found, strict=True):
            same = examples[examples.names.index(name)]
            np.testing.assert_array_equal(example.mask, same.mask)
            np.testing.assert_array_equal(example.image, same.image)


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, link


@pytest.fixture(scope="module")
def names_of_tests() -> set[str]:
    """Names of all test functions."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_tests_and_modules_in_the_text_exist(document: Path, names_of_tests: set[str]) -> None:
    text = prose(document)
    assert set(re.findall(r"`(test_\w+)`", text)) <= names_of_tests
    roots = (ROOT, ROOT / "jaxdistill", *(ROOT / "jaxdistill").iterdir())
    for name in re.findall(r"(?<![\w./-])[a-z_]+/[\w/]+\.py\b", text):
        assert any((root / name).exists() for root in roots), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_keys_in_the_text_exist(document: Path) -> None:
    known = set(re.findall(r"^\| `([^`]+)`", table(), re.M))
    files = (".onnx", ".orbax", ".pth", ".png", ".json", ".yaml", ".safetensors")
    for span in re.findall(r"`([^`\n]+)`", prose(document)):
        key = re.split(r"[=:\s]", span)[0]
        section, dot, _ = key.partition(".")
        if dot and section in config.Config.model_fields and not key.endswith(files):
            assert re.sub(r"\.\d+(?=\.|$)", ".N", key) in known or _is_in_the_api(key), span


def _is_in_the_api(name: str) -> bool:
    """Whether `losses.Loss` is an attribute of `jaxdistill.losses`, for example."""
    package, attribute = name.partition("(")[0].split(".")[:2]
    try:
        return hasattr(importlib.import_module(f"jaxdistill.{package}"), attribute)
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def furnished(place: Path) -> Path:
    """That folder, with all files that the documents name."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from jaxdistill.torch_interop import smp_networks

    coco = coco_folders.discs(place / "PATH/TO/COCO")
    for file in list((coco / "annotations").iterdir()):
        shutil.copy(file, file.with_name(file.name.replace("_person_only_no_crowd", "")))
    extracted = place / "ext_extractor"
    extracted.mkdir()
    yolo = config.load(tiny_run.SPECIFIED).detector
    assert yolo is not None
    for name, tensor in {
        "PATH/TO/TEACHER.onnx": "inner",
        "ext_extractor/teacher.onnx": "inner",
        "ext_extractor/2020-09-23a.onnx": "inner",
        "ext_extractor/u2netp.onnx": "1429",
        str(yolo.onnx): "segmentation_model_34_Concat_output_0",
    }.items():
        _network(place / name, tensor)
    for encoder in ("timm-efficientnet-b0", "timm-efficientnet-b3", "tf_efficientnet_lite0"):
        variables = student.flat_variables(student.build(config.Student(encoder=encoder)))
        arrays = {k: np.asarray(v) for k, v in variables.items() if k.startswith("encoder.")}
        weights.save(extracted / f"{encoder}.safetensors", arrays, {"encoder": encoder})
    selfie = config.Student(encoder="mediapipe-selfie", decoder="mediapipe-selfie")
    student.save_weights(student.build(selfie), extracted / "selfie_segmentation.safetensors")
    for name, encoder in (("ext_extractor/2020-09-23a.pth", "b3"), ("unet.pth", "b0")):
        unet = smp_networks.unet(f"timm-efficientnet-{encoder}", (256, 128, 64, 32, 16))
        torch.save(unet.state_dict(), place / name)
    for other in ("OTHER/COCO", "PATH/TO/FOLDER"):
        shutil.copytree(coco, place / other)
    for folder in ("PATH/TO/IMAGES", "photos", "more/of/them"):
        (place / folder).mkdir(parents=True)
        for picture in sorted((coco / "images/val2017").iterdir())[:2]:
            Image.open(picture).save(place / folder / f"{picture.stem}.jpg")
    clips.write(place / "clip.mp4", [clips.bright_disc(index) for index in range(5)])
    for folder, split in (("train", "train2017"), ("validation", "val2017")):
        shutil.copytree(coco / "images" / split, place / "PATH/TO/IMAGES" / folder)
        (place / "PATH/TO/VIDEOS" / folder).mkdir(parents=True)
        discs = [clips.bright_disc(index % 16) for index in range(70)]
        clips.write(place / "PATH/TO/VIDEOS" / folder / "clip.mp4", discs)
    tiny_run.network(place / "network.onnx")
    coarse = [o for o in tiny_run.overrides(place) if "root=" not in o and "run=" not in o]
    given = [*coarse, f"run={place}/runs/NAME", f"data.root={coco}"]
    train.main(["--config", str(tiny_run.SPECIFIED), *given])
    export.main([f"{place}/runs/NAME", f"{place}/student.onnx"])
    return place


def _network(path: Path, tensor: str) -> None:
    """The tiny network for pictures of 64 x 64, whose map at stride 8 has that name."""
    model = onnx.load(tiny_run.network(path))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 64
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [tensor if name == "inner" else name for name in names]
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("document", DOCUMENTS, ids=document_name)
def test_the_commands_of_a_document_run_in_order(
    document: Path,
    furnished: Path,
    tmp_path: Path,
    parse: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    shutil.copytree(furnished, home, ignore=shutil.ignore_patterns("prepared"))
    environment = {**os.environ, "HOME": str(tmp_path)}
    failed = []
    for command in commands(document):
        if any(re.match(pattern, command.line) for pattern in NOT_RUN):
            continue
        words = command.words
        if command.program and command.program[0] != "-c":
            given = parse(command)
            words = [sys.executable, *command.program]
            words[1] = str(ROOT / words[1]) if words[1].startswith("tools/") else words[1]
            if getattr(given, "config", None):
                monkeypatch.chdir(home)
                chosen = settings(given).student
                words += TINY
                if chosen.decoder.endswith("unet") and chosen.encoder != "tiny":  # it has two maps
                    words += [f"student.decoder_channels={CHANNELS[: chosen.encoder_depth]}"]
            trains = command.program[1] == "jaxdistill.train" or command.program[2:3] == ["train"]
            if trains and not (given.resume or given.dry_run):
                monkeypatch.chdir(home)
                shutil.rmtree(settings(given).run, ignore_errors=True)
        elif command.program:
            words[0] = sys.executable
        done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True)
        if done.returncode:
            failed.append(f"{command}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    assert not failed, "\n".join(failed)
