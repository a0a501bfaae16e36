"""The choice between the forms of an operation.

Every operation has a plain form, which is its specification, and may have others that are faster on
a CPU or on a GPU. The platform decides when a program is compiled. `JAXDISTILL_PLAIN_OPS` in the
environment switches other forms than the plain ones off: `all`, or names separated by commas, such
as `depthwise,upsampling`. Within `portable`, operations are traced by the forms that consist of
operators which inference runtimes have.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jax import lax

PLAIN_OPS = "JAXDISTILL_PLAIN_OPS"

_portable: ContextVar[bool] = ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Makes `choose` take the forms for exported graphs, in functions that are traced within it."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def choose(
    name: str,
    *operands: Any,
    plain: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    gpu: Callable[..., Any] | None = None,
    exported: Callable[..., Any] | None = None,
) -> Any:
    """Computes an operation by the form that is fast on the platform.

    Args:
      name: Name of the operation, for `JAXDISTILL_PLAIN_OPS`.
      *operands: Arrays, the arguments of each form.
      plain: The plain form.
      cpu: The form for CPUs; None: the plain one.
      gpu: The form for NVIDIA GPUs; None: the plain one.
      exported: The form for exported graphs; None: the plain one.

    Returns:
      The result, equal for all forms up to rounding.
    """
    if _portable.get():
        return (exported or plain)(*operands)
    off = os.environ.get(PLAIN_OPS, "").split(",")
    if name in off or "all" in off:
        return plain(*operands)
    forms = {"cpu": cpu or plain, "cuda": gpu or plain}
    if forms["cpu"] is forms["cuda"]:
        return forms["cpu"](*operands)
    return lax.platform_dependent(*operands, **forms, default=plain)
