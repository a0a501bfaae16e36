"""The student without the kinks of its ReLUs.

A value within rounding of 0 may fall on either side of the kink when sums are taken in another
order, as over several devices, and its gradient is there or is not. In float32 that moves what is
learnt by up to 1e-4, in some runs, whatever the devices do.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax

from jaxdistill.models import layers, projector
from jaxdistill.ops import normalization

_batch_norm = normalization.batch_norm


@contextlib.contextmanager
def smoothly() -> Iterator[None]:
    """Where the decoder and the projectors say ReLU, softplus is meant."""
    with contextlib.ExitStack() as stack:
        for module in (jax.nn, layers, projector):
            stack.enter_context(mock.patch.object(module, "relu", jax.nn.softplus))
        stack.enter_context(mock.patch.object(normalization, "batch_norm", _smooth_batch_norm))
        yield


def _smooth_batch_norm(x, scale, bias, eps, rectify):
    """With BatchNorm's own gradient, which knows of no other activation than ReLU."""
    y, mean, var = _batch_norm(x, scale, bias, eps, False)
    return (jax.nn.softplus(y) if rectify else y), mean, var
