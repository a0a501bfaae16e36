"""How much the masks of a video flicker, as they are and smoothed."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxdistill.data import image_ops
from jaxdistill.data.video import VideoSource
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.evaluation.video.smoothing import Smoother, flicker


def measure_flicker(
    predictor: Predictor,
    source: VideoSource,
    strengths: Sequence[float] = (0.0, 0.8),
    *,
    batch_size: int = 4,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[float, float]:
    """Measures the flicker of a video's masks at the size of the model.

    Args:
      predictor: The model.
      source: The video; it needs no masks.
      strengths: See `Smoother`; 0 is without smoothing.
      batch_size: Number of frames that the model processes at a time.
      progress: Called with the number of frames that were measured.

    Returns:
      By strength the mean of `smoothing.flicker` over all pairs of successive frames.

    Raises:
      DataError: See `VideoSource.frames`.
    """
    smoothers = {strength: Smoother(strength) for strength in strengths}
    masks: dict[float, np.ndarray] = {}
    totals = dict.fromkeys(strengths, 0.0)
    previous: np.ndarray | None = None
    pairs = 0
    batch: list[np.ndarray] = []

    def measure() -> None:
        nonlocal previous, pairs
        for image, logits in zip(batch, predictor.padded_logits(batch, batch_size), strict=True):
            for strength, smoother in smoothers.items():
                mask = smoother(logits, image) > 0
                if previous is not None:
                    totals[strength] += flicker(masks[strength], mask, (previous, image))
                masks[strength] = mask
            pairs += previous is not None
            previous = image
        progress(len(batch))
        batch.clear()

    for frame in source.frames():
        batch.append(image_ops.resize_image(frame.image, predictor.size))
        if len(batch) == batch_size:
            measure()
    if batch:
        measure()
    return {strength: total / max(1, pairs) for strength, total in totals.items()}
