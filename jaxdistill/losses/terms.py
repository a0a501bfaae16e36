"""The losses of distillation, each as one value per picture.

Shapes: logits and masks (B, H, W, 1); features (B, h, w, C); results (B,). The mean over pictures
is the caller's, so that padded pictures can be left out. Formulas: docs/losses.md.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import sigmoid
from jaxtyping import Array, Float

Map = Float[Array, "b h w 1"]
Features = Float[Array, "b h w c"]
PerPicture = Float[Array, " b"]


def kl(
    student: Map,
    teacher: Map,
    temperature: float | Array,
    scale: Literal["none", "t", "t2"] = "t",
) -> PerPicture:
    """Divergence of the student's Bernoulli distribution from the teacher's, per pixel.

    Both are softened by the temperature T; the mean is multiplied by 1, T (the PyTorch original) or
    T squared (Hinton et al. 2015, arXiv:1503.02531: the gradient then does not fade with T). Exact
    for any logit: the two outcomes are exchanged where the teacher is negative, and then nothing
    large is subtracted from anything large.
    """
    t = jnp.abs(teacher) / temperature
    s = jnp.where(teacher < 0, -student, student) / temperature
    # p log(p/q) + (1-p) log((1-p)/(1-q)), with 1-p = sigmoid(-t) and log q = -softplus(-s)
    divergence = sigmoid(-t) * (s - t) + jnp.maximum(-s, 0) + _tail(s) - _tail(t)
    return _mean(divergence) * temperature ** {"none": 0, "t": 1, "t2": 2}[scale]


def mse(a: Features, b: Features, attention: Map | None = None) -> PerPicture:
    """Mean squared difference; with attention, of weights that are 1 on average, a weighted one."""
    squares = jnp.square(a - b)
    if attention is not None:
        squares = squares * attention
    return squares.mean(tuple(range(1, a.ndim)))


def bce(student: Map, mask: Map) -> PerPicture:
    """Binary cross-entropy of the logits with the mask."""
    return _mean(jnp.maximum(student, 0) - mask * student + _tail(student))


def dice(student: Map, mask: Map, smooth: float = 1e-5) -> PerPicture:
    """One minus the soft Dice coefficient of each picture."""
    p = sigmoid(student)
    axes = (1, 2, 3)
    overlap = (p * mask).sum(axes)
    return 1 - (2 * overlap + smooth) / (p.sum(axes) + mask.sum(axes) + smooth)


def cosine(a: Features, b: Features, attention: Map | None = None, eps: float = 1e-8) -> PerPicture:
    """One minus the mean cosine similarity over channels; with attention, the weighted mean."""
    # As torch's cosine_similarity: each norm is at least eps.
    dot = (a * b).sum(-1)
    squares = jnp.maximum(jnp.square(a).sum(-1), eps**2) * jnp.maximum(
        jnp.square(b).sum(-1), eps**2
    )
    similarity = dot / jnp.sqrt(squares)
    if attention is not None:
        similarity = similarity * attention[..., 0]
    return 1 - _mean(similarity)


def cwd(student: Features, target: Features, temperature: float) -> PerPicture:
    """Channel-wise distillation (Shu et al. 2021, arXiv:2011.13256, equations 3 and 4).

    At the temperature T, a softmax over the positions makes a distribution of each channel. The
    student's divergence from the target's is summed over positions, averaged over channels and
    multiplied by T squared. The paper's sum over a batch is the mean here, as the authors' program
    has it too, so that the loss does not grow with the batch.
    """
    log_p, log_q = (jax.nn.log_softmax(x / temperature, axis=(1, 2)) for x in (target, student))
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum((1, 2))
    return temperature**2 * divergence.mean(-1)


def share(values: Map, floor: float) -> Map:
    """Values that are not negative as weights whose mean over a picture is 1.

    `floor` is added to each: where all values are far below it, the weights are equal.
    """
    raised = values + floor
    return raised / raised.mean((1, 2, 3), keepdims=True)


def _tail(x: Array) -> Array:
    """What softplus(x) is more than max(x, 0)."""
    return jnp.log1p(jnp.exp(jnp.minimum(x, -x)))  # not -abs(x), whose gradient at 0 is not 0


def _mean(values: Array) -> PerPicture:
    # As a product with a vector: XLA's CPU back end then computes what is summed with its own
    # vectorised functions, thirty times faster than within a sum.
    flat = values.reshape(len(values), -1)
    share = jnp.full(flat.shape[1], 1 / flat.shape[1], flat.dtype)
    return jnp.matmul(flat, share, precision="highest")
