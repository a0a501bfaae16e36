"""The smallest encoder and decoder that train, as a user writes them, and images for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tiny_run
from flax import nnx

import jaxdistill as jd
from jaxdistill import config
from jaxdistill.models import DECODERS, ENCODERS, Decoder, Encoder, FeatureInfo
from jaxdistill.models.functional import concatenate, relu, upsample_nearest
from jaxdistill.models.layers import BatchNorm, Conv, conv_norm
from jaxdistill.training import Callback

SIZE = 16
"""Height and width of the images of `batches`."""


class ToyEncoder(Encoder):
    """Two strided convolutions."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(3, 8, 3, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(8)
        self.conv2 = Conv(8, 12, 3, stride=2, rngs=rngs)
        self.bn2 = BatchNorm(12)
        self.feature_info = (FeatureInfo("encoder.1", 8, 2), FeatureInfo("encoder.2", 12, 4))
        self.stages = (("conv2", "bn2"), ("conv1", "bn1"))
        self.unused = ()
        self.float32_layers = ("conv1",)

    def __call__(self, x, *, train):
        fine = relu(conv_norm(self.conv1, self.bn1, x, train=train))
        return fine, relu(conv_norm(self.conv2, self.bn2, fine, train=train))


class ToyDecoder(Decoder):
    """Upsamples twice, with one skip."""

    def __init__(self, encoder, channels=None, *, rngs: nnx.Rngs) -> None:
        channels = channels or (8, 8)
        fine, coarse = encoder
        self.conv1 = Conv(coarse.channels + fine.channels, channels[0], 3, bias=True, rngs=rngs)
        self.conv2 = Conv(channels[0], channels[1], 3, bias=True, rngs=rngs)
        self.feature_info = (
            FeatureInfo("decoder.0", channels[0], fine.stride),
            FeatureInfo("decoder.1", channels[1], 1),
        )
        self.float32_layers = ()

    def __call__(self, features, *, train):
        fine, coarse = features
        x = relu(self.conv1(concatenate([upsample_nearest(coarse), fine])))
        return x, relu(self.conv2(upsample_nearest(x)))


def register() -> None:
    """Registers both as `toy-encoder` and `toy-decoder`; may be called again."""
    ENCODERS.register("toy-encoder")(ToyEncoder)
    DECODERS.register("toy-decoder")(ToyDecoder)


def batches() -> list[dict[str, np.ndarray]]:
    """Two batches of two images, whose brightness shows their masks."""
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 2, (2, 2, SIZE, SIZE, 1)).astype(np.float32)
    images = np.clip(masks + draw.normal(0, 0.1, (2, 2, SIZE, SIZE, 3)), 0, 1).astype(np.float32)
    return [{"images": image, "masks": mask} for image, mask in zip(images, masks, strict=True)]


class StopAfter(Callback):
    """Ends a run after a step, as a user who interrupts it does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: jd.Trainer, step: int) -> None:
        if step == self.step:
            trainer.request_stop("the test")


def trainer(
    run: Path,
    callbacks: Sequence[Callback] = (),
    unfreeze: config.Unfreezing | None = None,
    weights: Path | None = None,
    **training: Any,
) -> jd.Trainer:
    """A trainer of four epochs of two steps, on masks alone."""
    return jd.Trainer(
        jd.models.create("toy-decoder", encoder="toy-encoder", weights=weights, unfreeze=unfreeze),
        batches(),
        validation=batches(),
        losses={"bce": jd.losses.BCE(weight=1.0)},
        run=run,
        callbacks=tuple(callbacks),
        console=tiny_run.QUIET,
        **{"epochs": 4, "learning_rate": 1e-2, **training},
    )


def stored_arrays(run: Path) -> dict[str, Any]:
    """All arrays of a run's newest checkpoint, by part."""
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return jax.tree.map(np.asarray, ocp.PyTreeCheckpointer().restore((newest / "state").absolute()))
