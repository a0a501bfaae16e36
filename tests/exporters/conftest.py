"""A run to export, and its student."""

from pathlib import Path

import numpy as np
import pytest
from coco_folders import Folder, box, encode
from small_student import SMALL, randomised, small_student

from jaxdistill import config
from jaxdistill.checkpoint.best import save_frozen
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.models import Student, unfreezing
from jaxdistill.types import TrainState


@pytest.fixture(scope="module")
def small() -> Student:
    return randomised(small_student())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Student) -> Path:
    """A run with a checkpoint, and with bright people on dark grounds to measure on."""
    folder = tmp_path_factory.mktemp("trained")
    settings = config.Config(
        run=folder / "run",
        data=people(folder / "people"),
        student=SMALL.model_copy(update={"normalization": "half"}),
        losses=config.Losses(kl=0, mse=0),
    )
    settings.run.mkdir()
    (settings.run / "config.yaml").write_text(config.dump(settings))
    parts = unfreezing.partition_in_phase(small, settings.student, 0)
    save_frozen(settings.run, parts, small)
    state = TrainState(np.int32(6), parts.params, parts.batch_stats, {"count": np.zeros(())})
    metadata = {
        "frozen": fingerprint(parts.frozen),
        "progress": {"epoch": 2, "step": 6, "phase": 0},
        "validation": {"student_miou": 0.5},
    }
    with Checkpoints(settings.run, settings.checkpoints) as checkpoints:
        checkpoints.save(state, metadata, score=0.5)
    return settings.run


def people(root: Path) -> config.Data:
    folder = Folder(root)
    random = np.random.default_rng(0)
    for number in range(6):
        left = 8 * number
        image = random.integers(0, 80, (64, 96, 3), np.uint8)
        image[16:56, left : left + 30] += 150
        folder.person(
            folder.image(f"{number}.png", encode(image), (64, 96)), box(16, left, 56, left + 30)
        )
    folder.write()
    return folder.data(image_size=(64, 96))
