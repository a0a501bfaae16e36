"""The `Teacher` protocol: anything that computes `TeacherOutputs` from images.

A function is a teacher:

    def teacher(images):                     # (B, H, W, 3) in [0, 1]
        return TeacherOutputs(logits=my_network(images))

Further members are optional. The training uses them where they are present; the functions of
this module give an answer for every teacher, with or without them:

- `output_shapes(image_size) -> OutputShapes`: the shapes of the outputs. Without it, the teacher is
  run once on a black image.
- `provenance`: a dictionary of plain values (as in JSON), all that the outputs depend on, such as
  the SHA-256 of each weights file. It names the target cache's folders and is kept with a run.
  Where it has the keys `logits` and `features`, each holds what that output alone depends on.
- `describe() -> list[str]`: lines for people, printed when a run starts.
- `set_batch_size(batch_size)`: called before the teacher is first used with the number of images
  that each device will be given at once; smaller batches may follow.
- `restrict(*, logits, features) -> Teacher | None`: the same teacher, asked for fewer outputs; None
  where no output is left.
- `members` and `merge(logits)`: teachers whose logits are merged to those of this one; a target
  cache then keeps the logits of each member.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill.config import Size
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.types import TeacherOutputs

Shape = tuple[int, int, int]
"""Height, width and channels of a map."""


class Teacher(Protocol):
    """Anything that computes teacher outputs from images; see the module for optional members."""

    def __call__(self, images: Float[Array, "b h w 3"], /) -> TeacherOutputs:
        """Computes the outputs of one batch.

        Args:
          images: RGB images in [0, 1], shape (B, H, W, 3), as they are after augmentation.

        Returns:
          Mask logits (B, H, W, 1) at the size of the images, or None, and one map (B, h, w, C) per
          feature pair. All values are finite float32.
        """
        ...


class OutputShapes(NamedTuple):
    """Shapes of a teacher's outputs for one image."""

    logits: Shape | None = None
    """(H, W, 1), or None where the teacher gives no mask."""
    features: tuple[Shape, ...] = ()
    """(h, w, C) of each feature map."""


def output_shapes(teacher: Teacher | None, image_size: Size) -> OutputShapes:
    """Returns the shapes of a teacher's outputs.

    Args:
      teacher: Any teacher. One without `output_shapes` is run once, on a black image. None has no
        outputs.
      image_size: Height and width of the images.

    Returns:
      The shapes of its outputs for one image of that size.

    Raises:
      ConfigError: An output has not four axes (`teacher-shape`).
    """
    if teacher is None:
        return OutputShapes()
    declared: Callable[[Size], OutputShapes] | None = getattr(teacher, "output_shapes", None)
    if declared is not None:
        return declared(image_size)
    outputs = teacher(jnp.zeros((1, *image_size, 3), jnp.float32))
    return OutputShapes(
        None if outputs.logits is None else _shape(outputs.logits),
        tuple(_shape(features) for features in outputs.features),
    )


def set_batch_size(teacher: Teacher | None, batch_size: int) -> None:
    """Tells a teacher how many images each device will be given at once.

    Args:
      teacher: Any teacher; one without `set_batch_size` is left alone, and None as well.
      batch_size: Number of images.
    """
    method: Callable[[int], None] | None = getattr(teacher, "set_batch_size", None)
    if method is not None:
        method(batch_size)


def feature_shapes(teacher: Teacher | None, image_size: Size) -> tuple[Shape, ...]:
    """Returns (h, w, C) of each feature map of a teacher, as `output_shapes` finds them.

    Args:
      teacher: Any teacher; None has no features.
      image_size: Height and width of the images.
    """
    return output_shapes(teacher, image_size).features


def has_provenance(teacher: Teacher) -> bool:
    """Returns whether a teacher declares what its outputs depend on."""
    return getattr(teacher, "provenance", None) is not None


def provenance_of(teacher: Teacher | None) -> dict[str, Any]:
    """Returns all that a teacher's outputs depend on, as far as it declares that.

    Args:
      teacher: Any teacher. One without `provenance` gives its Python name alone, which does not
        tell two sets of weights apart. None gives an empty dictionary.
    """
    if teacher is None:
        return {}
    if has_provenance(teacher):
        return dict(teacher.provenance)  # type: ignore[attr-defined]
    return {"callable": _name(teacher)}


def output_provenance(teacher: Teacher, output: str) -> dict[str, Any]:
    """Returns what one output of a teacher depends on.

    Args:
      teacher: Any teacher.
      output: `logits` or `features`.

    Returns:
      That part of `provenance_of(teacher)`; all of it where it has no such parts.
    """
    provenance = provenance_of(teacher)
    part = provenance.get(output)
    return dict(part) if isinstance(part, Mapping) else provenance


def file_fingerprints(teacher: Teacher | None) -> dict[str, str]:
    """Returns the SHA-256 of a teacher's files, in hexadecimal.

    Args:
      teacher: Any teacher; one that has no files gives an empty dictionary.

    Returns:
      Digests under `teacher` (the file of the logits) and `detector` (that of the features); of
      several teachers under `teacher.0` and so on.
    """
    provenance = provenance_of(teacher)
    roles = {"teacher": provenance.get("logits"), "detector": provenance.get("features")}
    if isinstance(roles["teacher"], Mapping) and "members" in roles["teacher"]:
        roles |= {f"teacher.{i}": part for i, part in enumerate(roles["teacher"]["members"])}
    return {
        role: str(part["file"])
        for role, part in roles.items()
        if isinstance(part, Mapping) and "file" in part
    }


def describe_teacher(teacher: Teacher | None) -> list[str]:
    """Returns lines about a teacher for people.

    Args:
      teacher: Any teacher. One without `describe` is described by its Python name; None gives no
        lines.
    """
    if teacher is None:
        return []
    describe: Callable[[], list[str]] | None = getattr(teacher, "describe", None)
    return describe() if describe is not None else [f"teacher: {_name(teacher)}"]


def restrict(
    teacher: Teacher | None, *, logits: bool = True, features: bool = True
) -> Teacher | None:
    """Returns a teacher that computes no more than what is needed.

    Args:
      teacher: Any teacher. One without `restrict` is returned as it is while any output is needed.
      logits: Whether the mask logits are needed.
      features: Whether the feature maps are needed.

    Returns:
      A teacher with at least the needed ones of its outputs; None where none is left.
    """
    if teacher is None or not (logits or features):
        return None
    method: Callable[..., Teacher | None] | None = getattr(teacher, "restrict", None)
    return method(logits=logits, features=features) if method is not None else teacher


def _shape(maps: Float[Array, "b h w c"]) -> Shape:
    if maps.ndim != 4:
        raise ConfigError(
            f"the teacher's outputs have the shape {maps.shape}, expected (B, height, width, "
            f"channels)",
            code="teacher-shape",
        )
    _, height, width, channels = maps.shape
    return height, width, channels


def _name(teacher: Teacher) -> str:
    named = teacher if hasattr(teacher, "__qualname__") else type(teacher)
    return f"{named.__module__}.{named.__qualname__}"
