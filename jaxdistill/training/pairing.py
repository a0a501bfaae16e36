"""The feature pairs of a run, whose images may have several sizes."""

from collections.abc import Mapping, Sequence

from jaxdistill import losses
from jaxdistill.config import Size
from jaxdistill.losses import Loss
from jaxdistill.models import Student
from jaxdistill.models.feature_pairs import Pair, pair_up
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers.base import Teacher, feature_shapes


def feature_pairs(
    model: Student,
    terms: Mapping[str, Loss],
    teacher: Teacher | None,
    image_size: Size,
    sizes: Sequence[Size] = (),
) -> list[Pair]:
    """Returns the projectors that the feature loss needs.

    Args:
      model: The student.
      terms: The losses by name.
      teacher: The teacher; see `feature_shapes`.
      image_size: Height and width of the validation images.
      sizes: Those of the training images, where they differ.

    Raises:
      ConfigError: A pair names a tap that the student has not (`unknown-tap`), or its two maps
        differ in size (`feature-size`).
    """
    feature = next((each for each in terms.values() if isinstance(each, losses.Feature)), None)
    if feature is None:
        return []
    described = []
    for size in dict.fromkeys([image_size, *sizes]):
        shapes = feature_shapes(teacher, size)
        if len(shapes) != len(feature.pairs):
            raise ConfigError(
                f"the feature loss has {len(feature.pairs)} pairs, but the teacher gives "
                f"{len(shapes)} feature maps; name the tensors of all pairs as the teacher's "
                f"features",
                code="feature-count",
            )
        described.append(
            pair_up(
                feature.pairs,
                shapes,
                size,
                model.feature_info,
                balanced=feature.learned_weights,
            )
        )
    return [
        _for_all_sizes(index, pairs) for index, pairs in enumerate(zip(*described, strict=True))
    ]


def _for_all_sizes(index: int, pairs: Sequence[Pair]) -> Pair:
    """Returns one projector for the images of all sizes: it can resize a tap to one size only."""
    resized = {pair.size for pair in pairs if pair.size}
    if len(resized) > 1:
        raise ConfigError(
            f"features.{index}: the tap would have to be resized to another size for each of "
            f"data.sizes; choose a tap of the tensor's stride, or set detector.size",
            code="feature-size",
        )
    return next((pair for pair in pairs if pair.size), pairs[0])
