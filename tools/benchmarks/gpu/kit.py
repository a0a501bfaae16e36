"""The kit: a folder with everything that the check on a GPU needs beside the project itself.

`pack.py` makes it, `check.py` uses it. `kit.json` in it says what is measured, so that a small kit
rehearses every stage on a CPU. This module needs the standard library alone.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
NAME = "kit.json"
VARIABLE = "JAXDISTILL_GPU_KIT"
"""Environment variable with the folder of the kit, for the stages."""
SPECIFIED = "configs/yolo_feature_distillation_b0_from_b3.yaml"
RUN_CONFIG = "configs/demo.yaml"


@dataclass(frozen=True)
class Network:
    """A network to be measured in onnxruntime."""

    file: str
    """Its path in the kit."""
    side: int
    """Height and width of the images in pixels."""
    batch: int


@dataclass(frozen=True)
class Kit:
    """What is measured, and how large."""

    overrides: list[str]
    """Settings of the training step, over those of `SPECIFIED`."""
    channels: int
    """Channels of the detector's tensor."""
    steps: list[list]
    """Precision and batch of every training step, in order; the first one is profiled."""
    torch: list[list]
    """Precision, batch, and `eager` or `compile`, of the original's steps, in order."""
    compiler: str
    """The backend of `torch.compile`."""
    whole: list[list]
    """Precision and batch of the whole steps that are compared with the original's."""
    whole_steps: int
    """Whole steps that are measured."""
    small: bool
    """Whether teacher and detector are small, for a rehearsal."""
    networks: list[dict]
    """See `Network`."""
    run: list[str]
    """Settings of the whole run, over those of `RUN_CONFIG`; `{kit}` stands for the kit."""
    tests: list[str]
    """Arguments of pytest."""
    sides: list[int]
    """Elements of the array that is copied, and rows of the matrices, for the card's ceilings."""
    seconds: float
    """How long each step is measured."""
    round: int
    """Steps between two looks at the clock."""
    patience: float
    """Factor of the stages' time limits."""


_RUN = [
    "data.root={kit}/images",
    "data.prepared={kit}/prepared",
    "targets.cache=null",
]

FULL = Kit(
    overrides=[],
    channels=1024,
    steps=[
        *(["float32", 4], ["float32", 32], ["bfloat16", 32], ["bfloat16", 4]),
        *(["bfloat16", 64], ["bfloat16", 16], ["float32", 16], ["float32", 64]),
    ],
    torch=[
        *(["float32", 4, "eager"], ["float32", 32, "eager"], ["bfloat16", 32, "eager"]),
        *(["bfloat16", 32, "compile"], ["float32", 4, "compile"], ["float32", 32, "compile"]),
    ],
    compiler="inductor",
    whole=[["float32", 4], ["float32", 32]],
    whole_steps=6,
    small=False,
    networks=[
        asdict(Network("networks/teacher.onnx", 640, 4)),
        asdict(Network("networks/detector.onnx", 640, 4)),
    ],
    run=[
        *_RUN,
        "student.encoder_weights={kit}/encoder.safetensors",
        "teacher.onnx={kit}/networks/run_teacher.onnx",
        "detector.onnx={kit}/networks/run_teacher.onnx",
    ],
    tests=["-m", "not slow and not campaign", "-n", "12", "--dist", "loadfile", "--maxfail", "60"],
    sides=[1 << 29, 8192],
    seconds=2.0,
    round=10,
    patience=1.0,
)

SMALL = Kit(
    overrides=[
        "student.encoder=tf_efficientnet_lite0",
        "student.decoder_channels=[16, 8, 8, 4, 4]",
        "features.0.hidden_channels=8",
        "data.image_size=[32, 32]",
    ],
    channels=6,
    steps=[["bfloat16", 2]],
    torch=[["bfloat16", 2, "eager"], ["float32", 2, "compile"]],
    compiler="eager",  # traces, but generates no code, which needs a C++ compiler and a minute
    whole=[["float32", 2]],
    whole_steps=1,
    small=True,
    networks=[
        asdict(Network("networks/teacher.onnx", 64, 2)),
        asdict(Network("networks/detector.onnx", 64, 2)),
    ],
    run=[
        *_RUN,
        "data.image_size=[64, 64]",
        "student.encoder_weights=null",
        "student.decoder_channels=[16, 8, 8, 4, 4]",
        "teacher.onnx={kit}/networks/teacher.onnx",
        "detector=null",
        "features=[]",
        "training.batch_size=4",
        "training.epochs=4",
    ],
    tests=["tests/test_error_codes.py"],
    sides=[1 << 16, 64],
    seconds=0.0,
    round=1,
    patience=10.0,
)


def write(folder: Path, kit: Kit) -> None:
    """Writes `kit.json` into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps(asdict(kit), indent=1))


def read(folder: Path) -> Kit:
    """Reads the `kit.json` of a folder.

    Raises:
      FileNotFoundError: There is none.
    """
    return Kit(**json.loads((folder / NAME).read_text()))


def opened() -> tuple[Kit, Path]:
    """Returns the kit of this check and its folder."""
    folder = Path(os.environ[VARIABLE])
    return read(folder), folder


def run_settings(kit: Kit, folder: Path) -> list[str]:
    """Returns the arguments of `jaxdistill train` for the whole run, without its folder."""
    settings = [each.replace("{kit}", str(folder)) for each in kit.run]
    return ["--config", str(ROOT / RUN_CONFIG), *settings]
