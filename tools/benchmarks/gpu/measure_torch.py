"""A stage of check.py: the student's step of the PyTorch original, eager and compiled.

TF32 is allowed and cuDNN searches its algorithms, as in a fast PyTorch program. Eager steps are
measured in both memory layouts, compiled ones in channels-last, the layout that tensor cores use.
"""

import statistics
import time
from collections.abc import Callable

import kit as kits
import results
import step_program
import torch
import torch_original

from jaxdistill.models import feature_info
from jaxdistill.models.feature_info import find_tap
from jaxdistill.models.feature_pairs import pair_up

_LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}


def make_step(
    kit: kits.Kit, precision: str, batch: int, mode: str, layout: torch.memory_format
) -> Callable[[], None]:
    """Returns a training step on random inputs that are on the device already.

    Args:
      kit: Configuration and channels.
      precision: `float32`, or `bfloat16` for autocast.
      batch: Number of images.
      mode: `eager` or `compile`.
      layout: Of the student's kernels and images.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = step_program.settings_of(kit, precision, batch)
    size, taps = settings.data.image_size, feature_info(settings.student)
    shapes = [(*find_tap(each.tap, taps).size(size), kit.channels) for each in settings.features]
    pairs = pair_up(settings.features, shapes, size, taps)
    torch.manual_seed(0)
    student = torch_original.Student(settings.student, pairs).train()
    student = student.to(device, memory_format=layout)
    student.unet.encoder.requires_grad_(False)
    trained = [each for each in student.parameters() if each.requires_grad]
    training = settings.training
    optimizer = torch.optim.AdamW(
        trained,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=device == "cuda",
    )
    images = torch.rand(batch, 3, *size, device=device).to(memory_format=layout)
    mask = torch.rand(batch, 1, *size, device=device).round()
    logits = 4 * torch.randn(batch, 1, *size, device=device)
    features = [torch.rand(batch, c, h, w, device=device) for h, w, c in shapes]
    temperature = settings.losses.temperature.initial

    def loss() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            own, projected = student(images)
        maps = [each.float() for each in projected]
        limit = torch_original.MAX_FEATURE_LOSS
        return torch_original.total(
            own.float(), maps, mask, logits, features, settings, temperature, limit
        )

    forward = torch.compile(loss, backend=kit.compiler) if mode == "compile" else loss

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        if training.clip.norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, training.clip.norm)
        optimizer.step()

    return step


def measure(kit: kits.Kit, precision: str, batch: int, mode: str, layout: str) -> None:
    """Times a step and records the result."""
    step = make_step(kit, precision, batch, mode, _LAYOUTS[layout])
    start = time.perf_counter()
    for _ in range(3):
        step()
    _wait()
    first = time.perf_counter() - start
    rounds, end = [], time.perf_counter() + kit.seconds
    while len(rounds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(kit.round):
            step()
        _wait()
        rounds.append((time.perf_counter() - start) / kit.round)
    ms = 1e3 * statistics.median(rounds)
    results.record(
        "torch",
        precision=precision,
        batch=batch,
        mode=mode,
        layout=layout,
        first_steps_s=round(first, 1),
        ms=round(ms, 3),
        ms_least=round(1e3 * min(rounds), 3),
        images_per_s=round(1e3 * batch / ms, 1),
        peak_GB=round(torch.cuda.max_memory_allocated() / 1e9, 2)
        if torch.cuda.is_available()
        else None,
        torch=torch.__version__,
    )


def main() -> None:
    """Measures the steps of the kit in their order."""
    kit, _ = kits.opened()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for precision, batch, mode in kit.torch:
        for layout in ["NHWC"] if mode == "compile" else list(_LAYOUTS):
            about = {"precision": precision, "batch": batch, "mode": mode, "layout": layout}
            try:
                measure(kit, **about)
            except Exception as error:
                results.record_error("torch", error, **about)
            torch.compiler.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
