"""Compiles the training step in the background while the set-up waits for the teacher."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxdistill.config import Size
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers.base import OutputShapes, output_shapes
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.types import Batch, TeacherOutputs

if TYPE_CHECKING:
    from jaxdistill.training.trainer import Trainer


@contextmanager
def compiling(trainer: "Trainer") -> Iterator[None]:
    """Compiles the training step in a thread while the `with` block runs.

    The result reaches the first step through JAX's compilation cache on disk; without one, with
    several processes, where the encoder's feature maps are cached, or where batches differ in size,
    nothing is compiled.

    Args:
      trainer: A trainer whose steps and state are made.
    """
    cache = getattr(jax.config, "jax_compilation_cache_dir", None)
    useful = cache and jax.process_count() == 1
    if not useful or not _shapes_are_known(trainer):
        yield
        return
    arguments = (trainer.state, trainer.frozen, *_abstract_batch(trainer))
    thread = threading.Thread(target=_compile, args=(trainer.train_step, arguments), daemon=True)
    thread.start()
    yield
    thread.join()


def _compile(train_step: Any, arguments: tuple[Any, ...]) -> None:
    try:
        train_step.lower(*arguments).compile()
    except Exception:
        return  # the first step meets the same error, where it is reported


def _shapes_are_known(trainer: "Trainer") -> bool:
    teacher = trainer.inputs.train.teacher
    one_size = trainer.data.train_sizes == (trainer.data.image_size,)
    return one_size and not (isinstance(teacher, CachedTeacher) and teacher.encoder is not None)


def _abstract_batch(trainer: "Trainer") -> tuple[Batch, TeacherOutputs]:
    """Returns shapes and types of what `RunPipelines.train_batches` yields."""
    teacher, size = trainer.inputs.train.teacher, trainer.data.image_size
    outputs = jnp.float16 if isinstance(teacher, CachedTeacher) else jnp.float32
    count = trainer.settings.training.images_per_step
    return abstract_batch(trainer.mesh, count, size, output_shapes(teacher, size), outputs)


def abstract_batch(
    mesh: Mesh, count: int, size: Size, shapes: OutputShapes, dtype: Any = jnp.float32
) -> tuple[Batch, TeacherOutputs]:
    """Returns shapes and types of a batch with teacher outputs, as a step takes it.

    Args:
      mesh: The devices.
      count: Number of images, over all devices.
      size: Their height and width.
      shapes: Shapes of the teacher's outputs for one image.
      dtype: Number format of the teacher's outputs.
    """

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=mesh.sharded)

    batch = Batch(
        array((*size, 3), jnp.float32),
        array((*size, 1), jnp.float32),
        array((), jnp.float32),
        array((), jnp.float32),
        array((), jax.dtypes.canonicalize_dtype(jnp.int64)),
    )
    logits = None if shapes.logits is None else array((*size, 1), dtype)
    return batch, TeacherOutputs(logits, tuple(array(s, dtype) for s in shapes.features))
