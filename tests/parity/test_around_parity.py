"""What surrounds the step: schedules, pictures, metrics."""

# ruff: noqa: E402

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

import cases
import tiny_run
import torch_student
from comparison import Parity
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.losses.temperature import temperature_at
from jaxdistill.metrics import segmentation
from jaxdistill.training.optimizer import learning_rate_schedule

EPOCHS = 50


def test_learning_rate_over_fifty_epochs(parity: Parity) -> None:
    settings = config.Training(epochs=EPOCHS, learning_rate=1e-4, final_learning_rate=1e-6)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=EPOCHS, eta_min=settings.final_learning_rate
    )
    schedule_of_epochs = learning_rate_schedule(settings, steps_per_epoch=1)
    expected = []
    for _ in range(EPOCHS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [schedule_of_epochs(jnp.asarray(epoch)) for epoch in range(EPOCHS)]
    # Each against its own size: the smallest is a hundredth of the largest.
    found = {f"epoch {epoch}": rate for epoch, rate in enumerate(ours)}
    wanted = {f"epoch {epoch}": rate for epoch, rate in enumerate(expected)}
    parity.check("learning rate, 50 epochs", found, wanted, 1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize("epochs", [EPOCHS, 1])
def test_temperature_over_fifty_epochs(parity: Parity, schedule: str, epochs: int) -> None:
    settings = config.Temperature(initial=3.0, final=1.0, schedule=schedule)
    found, wanted = {}, {}
    for epoch in range(epochs):
        name = f"epoch {epoch}"
        found[name] = temperature_at(settings, jnp.asarray(epoch), epochs)
        wanted[name] = torch_student.temperature_of(settings, epoch, epochs)
    parity.check(f"temperature, {schedule}", found, wanted, 1e-4)


@pytest.mark.parametrize("old", [(64, 64), (60, 84)])
@pytest.mark.parametrize("new", [(32, 32), (96, 128), (64, 64), (45, 77)])
@pytest.mark.parametrize("seed", [0, 1])
def test_resizing_of_maps(
    parity: Parity, old: tuple[int, int], new: tuple[int, int], seed: int
) -> None:
    maps = cases.pictures(2, old, seed)
    expected = F.interpolate(cases.nchw(maps), size=new, mode="bilinear", align_corners=False)
    ours = image_ops.resize(jnp.asarray(maps), new)
    parity.check("resizing of maps", {"maps": ours}, {"maps": cases.nhwc(expected)}, 1e-4)


@pytest.mark.parametrize("new", [(32, 32), (96, 128), (45, 77)])
@pytest.mark.parametrize("seed", [0, 1])
def test_resizing_of_images_and_masks(parity: Parity, new: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (60, 84, 3)).astype(np.uint8)
    tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    expected = F.interpolate(tensor, size=new, mode="bilinear", align_corners=False)
    resized = image_ops.resize_image(image, new)
    # cv2 computes in fixed point, and rounds to whole grey levels: one of 255 is allowed.
    parity.check(
        "resizing of images, to whole grey levels",
        {"image": resized / 255},
        {"image": cases.nhwc(expected)[0] / 255},
        1 / 255,
    )
    specified = config.load(tiny_run.SPECIFIED)
    mask = (image[..., 0] > 127).astype(np.uint8) * 255
    nearest = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=new, mode="nearest")
    parity.check(
        "resizing of masks",
        {"mask": image_ops.resize_mask(mask, new, specified.data.mask_resize)},
        {"mask": (nearest[0, 0] > 127.5).numpy()},
        0.0,
    )


@pytest.mark.parametrize("name", ["imagenet", "half", "unit"])
def test_normalisation(parity: Parity, name: str) -> None:
    pictures = cases.pictures(2, (32, 48))
    chosen = image_ops.resolve(name)
    expected = normalize(cases.nchw(pictures), list(chosen.mean), list(chosen.std))
    if name == "imagenet":
        assert chosen == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ours = image_ops.normalize(jnp.asarray(pictures), chosen)
    parity.check("normalisation", {"pictures": ours}, {"pictures": cases.nhwc(expected)}, 1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_miou_and_agreement(parity: Parity, seed: int) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 2, (2, 4, 24, 16, 1)).astype(np.float32)
    mask = rng.integers(0, 2, (4, 24, 16, 1)).astype(np.float32)
    mask[1], mask[2] = 0, 1
    student[1] = -np.abs(student[1])  # nobody there, and nobody found
    predicted, taught = (segmentation.predict(jnp.asarray(logits)) for logits in (student, teacher))
    parity.check(
        "mIoU",
        {"student": segmentation.mean_iou(predicted, jnp.asarray(mask) > 0.5)},
        {"student": [_miou(logits, truth) for logits, truth in zip(student, mask, strict=True)]},
        1e-6,
    )
    agreeing = [
        (torch.sigmoid(torch.from_numpy(s)) > 0.5).eq(torch.sigmoid(torch.from_numpy(t)) > 0.5)
        for s, t in zip(student, teacher, strict=True)
    ]
    parity.check(
        "agreement",
        {"pixels": segmentation.agreement(predicted, taught)},
        {"pixels": [float(same.double().mean()) for same in agreeing]},
        1e-6,
    )


def _miou(logits: np.ndarray, truth: np.ndarray) -> float:
    """From a confusion matrix, class by class."""
    predicted = (torch.sigmoid(torch.from_numpy(logits)) > 0.5).long().flatten()
    counts = torch.bincount(2 * torch.from_numpy(truth).long().flatten() + predicted, minlength=4)
    matrix = counts.reshape(2, 2).double()
    ious = []
    for label in (0, 1):
        union = matrix[label].sum() + matrix[:, label].sum() - matrix[label, label]
        ious.append(float(matrix[label, label] / union) if union else 1.0)
    return sum(ious) / 2
