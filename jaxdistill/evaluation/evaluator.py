"""Measurement of a student on data: scores per image and their means, and the worst images."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from PIL import Image

from jaxdistill.checkpoint.best import Best
from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.data.iterable import IterableData, to_batch
from jaxdistill.data.loader import validation_batches
from jaxdistill.data.splits import Data, SplitName
from jaxdistill.evaluation import own_size as own_size_lib
from jaxdistill.evaluation import predictor as predictor_lib
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.evaluation.refinement import REFINEMENTS
from jaxdistill.evaluation.worst import Worst, WorstExample
from jaxdistill.metrics import segmentation
from jaxdistill.models.student import Student
from jaxdistill.reporting.image_grid import sample_grid
from jaxdistill.runtime.errors import ConfigError, DataError
from jaxdistill.runtime.prefetch import prefetch
from jaxdistill.teachers.base import Teacher
from jaxdistill.types import Batch

MEASURES = {
    "miou": segmentation.mean_iou,
    "person_iou": segmentation.iou,
    "boundary_iou": segmentation.boundary_iou,
    "dice": segmentation.dice,
    "precision": segmentation.precision,
    "recall": segmentation.recall,
}
"""Metrics of one image, which need a mask."""

Scores = dict[str, float]
_Measured = dict[str, dict[str, Any]]
"""By role (`network`, `teacher`) and metric: arrays with one value per image, and the `areas`."""


class Evaluation(NamedTuple):
    """The result of an evaluation."""

    images: int
    """The number of images."""
    without_masks: int
    """The number of images without a mask, which are measured by the agreement alone."""
    network: Scores
    """Means over the images: the `MEASURES`, `pooled_miou` over all pixels, and `agreement`."""
    teacher: Scores | None
    """The same scores of the teacher; None without one."""
    per_image: list[dict[str, Any]]
    """For each image its `name`, `id`, and scores under `network` and `teacher`."""
    worst: list[WorstExample]
    """The images with the lowest score, the lowest first."""

    def as_dict(self) -> dict[str, Any]:
        """Returns all numbers as plain values for JSON."""
        return {name: value for name, value in self._asdict().items() if name != "worst"}

    def worst_grid(self) -> Image.Image:
        """Returns the worst images beside their masks, as in a run's sample grid."""
        _, images, *references, logits = zip(*self.worst, strict=True)
        masks, teacher = (None if column[0] is None else column for column in references)
        return sample_grid(images, masks, teacher, logits)


def evaluate(
    model: Predictor | Student | Best | str | Path,
    data: Data | IterableData | Iterable[Any],
    teacher: Teacher | None = None,
    *,
    split: SplitName = "validation",
    batch_size: int = 8,
    own_size: bool = False,
    refine: str | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Evaluation:
    """Measures a model on data.

    Images with a mask are compared with it; all images are compared with the teacher if there is
    one.

    Args:
      model: A predictor, a student, the best student of a run (`Trainer.best()`), a run folder, or
        an ONNX file that describes itself (see `evaluation.load`).
      data: Data with a validation split, such as `jaxdistill.data.coco(...)`, or an iterable of
        batches: `Batch`, dictionaries with `images` and `masks`, or tuples (images, masks). Rows of
        a `Batch` whose weight is 0 are left out.
      teacher: Computes the logits to agree with.
      split: The split of `data` that is used; batches have only one.
      batch_size: Number of images that the model processes at a time; batches keep their own size.
      own_size: Whether masks are compared at each image's own size, as `Predictor.predict` returns
        them, and not at that of the data's batches.
      refine: `guided` lets edges follow the image (see `evaluation.refinement`), at its own size.
      progress: Called with the number of images after each batch.

    Returns:
      The scores.

    Raises:
      DataError: There is no image (`no-images`), no such split (`no-validation-split`), or neither
        a mask nor a teacher (`nothing-to-compare`).
      ConfigError, RunError, NetworkError: The model cannot be loaded; see `evaluation.load`.
      ConfigError: `own_size` or `refine` is for `Data` only (`own-size`), or there is no such
        refinement (`unknown-refinement`).
    """
    if refine is not None:
        REFINEMENTS[refine]  # refuses an unknown one
    own_size = own_size or refine is not None
    batches, names, dataset = _open(data, split, batch_size)
    if dataset is not None and teacher is None and not dataset.labelled.any():
        raise _nothing_to_compare()
    predictor = _predictor(model, data)
    if not own_size:
        return _measure(_computed(predictor, teacher, batches), teacher, names, progress)
    if dataset is None or not isinstance(data, Data):
        raise ConfigError(
            "own_size and refine are for data of folders, such as jaxdistill.data.open(FOLDER); "
            "the images of batches have one size already",
            code="own-size",
        )
    size = max(1, min(batch_size, len(dataset)))
    computed = own_size_lib.measured(
        predictor, teacher, data, dataset, score=_scores_of, refine=refine, batch_size=size
    )
    return _measure(computed, teacher, names, progress)


def _measure(
    computed: Iterator[tuple[Batch, dict[str, Any], _Measured]],
    teacher: Teacher | None,
    names: Mapping[int, str],
    progress: Callable[[int], object],
) -> Evaluation:
    measured: list[_Measured] = []
    labelled: list[Bool[np.ndarray, " b"]] = []
    ids: list[int] = []
    worst = Worst()
    with closing(prefetch(computed)) as ready:
        for batch, logits, values in ready:
            # Padding may be anywhere in a batch of the caller's own.
            rows = np.flatnonzero(np.asarray(batch.weights) > 0)
            batch, logits, values = jax.tree.map(
                lambda array, rows=rows: np.asarray(array)[rows], (batch, logits, values)
            )
            measured.append(values)
            labelled.append(batch.labelled > 0)
            ids.extend(map(int, batch.ids))
            worst.add(batch, logits, values["network"], len(rows))
            progress(len(rows))
    if not ids:
        raise DataError("the evaluation data has no images", code="no-images")
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *measured)
    has_mask = np.concatenate(labelled)
    if teacher is None and not has_mask.any():
        raise _nothing_to_compare()
    return Evaluation(
        images=len(ids),
        without_masks=int((~has_mask).sum()),
        network=_means(whole["network"], has_mask),
        teacher=_means(whole["teacher"], has_mask) if teacher else None,
        per_image=_per_image(whole, has_mask, ids, names),
        worst=worst.examples(by_mask=bool(has_mask.any())),
    )


def _computed(
    predictor: Predictor, teacher: Teacher | None, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, dict[str, Any], _Measured]]:
    """Yields batches with the logits of the model and of the teacher, and their metrics."""
    for batch in batches:
        logits: dict[str, Any] = {"network": predictor.logits(batch.images)}
        if teacher:
            logits["teacher"] = teacher(image_ops.to_float(batch.images)).logits
        yield batch, logits, jax.device_get(_scores(logits, batch.masks))


@jax.jit
def _scores(
    logits: dict[str, Float[Array, "b h w 1"]], masks: UInt8[Array, "b h w 1"]
) -> _Measured:
    predictions = {role: segmentation.predict(values) for role, values in logits.items()}
    return _scores_of(predictions, masks > 0)


def _scores_of(predictions: dict[str, Any], mask: Any) -> _Measured:
    measured: _Measured = {
        role: {name: measure(prediction, mask) for name, measure in MEASURES.items()}
        | {"areas": segmentation.areas(prediction, mask)}
        for role, prediction in predictions.items()
    }
    if "teacher" in predictions:
        measured["network"]["agreement"] = segmentation.agreement(*predictions.values())
    return measured


def _means(values: dict[str, np.ndarray], has_mask: Bool[np.ndarray, " n"]) -> Scores:
    """Returns the mean of each metric over the images that have it."""
    known = {name: values[name][_has(name, has_mask)] for name in values}
    means = {name: float(known[name].mean(dtype=np.float64)) for name in _scalars(known)}
    if len(known["areas"]):
        means = {"pooled_miou": float(segmentation.pooled_iou(known["areas"]).mean()), **means}
    return means


def _has(measure: str, has_mask: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Returns which images have a metric: those with a mask; all have the agreement."""
    return has_mask | (measure == "agreement")


def _per_image(
    whole: _Measured, has_mask: np.ndarray, ids: list[int], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    has = {name: _has(name, has_mask) for values in whole.values() for name in values}
    return [
        {"name": names.get(id, str(id)), "id": id}
        | {
            role: {
                measure: float(values[measure][index])
                for measure in _scalars(values)
                if has[measure][index]
            }
            for role, values in whole.items()
        }
        for index, id in enumerate(ids)
    ]


def _scalars(values: dict[str, np.ndarray]) -> list[str]:
    return [name for name, per_image in values.items() if name != "areas" and len(per_image)]


def _open(
    data: Data | IterableData | Iterable[Any], split: SplitName, batch_size: int
) -> tuple[Iterable[Batch], Mapping[int, str], Dataset | None]:
    """Returns the batches, the names of the images by id, and the dataset if there is one."""
    if isinstance(data, Data):
        dataset: Dataset = getattr(data, split)
        size = min(batch_size, len(dataset))
        names = dict(zip(map(int, dataset.ids), dataset.names, strict=True))
        return validation_batches(dataset, data.settings, size), names, dataset
    if isinstance(data, IterableData):
        part = getattr(data, split)
        if part is None:
            raise DataError("the data has no validation split", code="no-validation-split")
        return _converted(part.once(), part.where), {}, None
    return _converted(data, "evaluation batches"), {}, None


def _converted(raw: Iterable[Any], where: str) -> Iterator[Batch]:
    count = 0
    for one in raw:
        batch = to_batch(one, count + 1, where)
        count += len(batch.images)
        yield batch


def _predictor(model: Any, data: Any) -> Predictor:
    if isinstance(model, Predictor):
        return model
    if isinstance(model, Best):
        return predictor_lib.from_best(model)
    size = getattr(data, "image_size", None)
    if isinstance(model, Student):
        return predictor_lib.from_model(model, size)
    return predictor_lib.load(model, default_size=size)


def _nothing_to_compare() -> DataError:
    return DataError(
        "the evaluation data has no masks, and there is no teacher to compare with: give a teacher "
        "(teacher.onnx=FILE), or masks (data.validation.annotations=FILE)",
        code="nothing-to-compare",
    )
