"""Linear probes of a network's feature maps, fitted to training and measured on validation images.

The network computes as many tensors at once as memory allows. Of a training image's map only a
sample of cells is used, and only sums over them are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, UInt8
from rich.console import Console
from rich.progress import Progress

from jaxdistill import config
from jaxdistill.analysis.feature_maps import FeatureMap
from jaxdistill.analysis.linear_probe import LinearProbe, Moments, ProbeScores, fit_probe
from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.runtime.errors import DataError
from jaxdistill.teachers.network_format import PixelFormat, prepare
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession

MAX_BYTES = 2**30
"""Memory for the tensors that are computed at once, with what is kept of them."""
CELLS = 512
"""Cells of each training image that a probe is fitted to."""
_HELD_OUT = 5  # one training image in so many chooses the ridge


class RankedFeature(NamedTuple):
    """A feature map, and how well its probe predicts masks."""

    map: FeatureMap
    probe: LinearProbe
    iou: float
    """Intersection over union of the validation cells that are more than half person."""
    r2: float
    """Coefficient of determination of the share of person in the validation cells."""


class MaskedImages:
    """A fixed sample of a split's images that have masks, at `data.image_size`.

    Args:
      dataset: The split.
      settings: The configuration; its seed draws the sample.
      count: The largest number of images.

    Raises:
      DataError: No image has a mask (`no-masks`).
    """

    def __init__(self, dataset: Dataset, settings: config.Config, count: int) -> None:
        self.fingerprint = dataset.fingerprint
        """Fingerprint of the whole split."""
        self._dataset, self._data = dataset, settings.data
        labelled = np.flatnonzero(dataset.labelled)
        if not len(labelled):
            raise DataError(
                f"{settings.data.root}: probes need masks to fit to and to measure on; set the "
                f"annotations of both data.train and data.validation",
                code="no-masks",
            )
        order = np.random.default_rng(settings.seed).permutation(len(labelled))
        self._indices = labelled[np.sort(order[:count])]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._indices)

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]]:
        """Yields images and their masks in {0, 1}."""
        for index in self._indices.tolist():
            image, mask = self._dataset[index]
            assert mask is not None
            yield (
                image_ops.resize_image(image, self._data.image_size),
                image_ops.resize_mask(mask, self._data.image_size, self._data.mask_resize),
            )


def rank_maps(
    graph: OnnxGraph,
    section: config.FrozenNetwork,
    settings: config.Config,
    maps: Sequence[FeatureMap],
    train: MaskedImages,
    validation: MaskedImages,
    console: Console,
    max_bytes: int = MAX_BYTES,
) -> list[RankedFeature]:
    """Ranks feature maps by the IoU of their probes, the best one first.

    Args:
      graph: The network.
      section: What the network expects of its input.
      settings: The configuration; its seed draws the cells.
      maps: Maps whose height and width divide `data.image_size`.
      train: Images to fit to.
      validation: Images to measure on.
      console: Where a progress bar is shown.
      max_bytes: Memory for the tensors that are computed at once.

    Returns:
      The maps whose values are all finite.

    Raises:
      DataError: There are fewer than two images to fit to (`too-few-images`).
    """
    if len(train) < 2:
        raise DataError(
            f"{settings.data.root}: a probe needs at least 2 training images with masks",
            code="too-few-images",
        )
    groups = list(grouped(maps, max_bytes))
    ranked: list[RankedFeature] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("probing", total=len(groups) * (len(train) + len(validation)))
        advance = partial(bar.advance, task)
        for group in groups:
            network = _Network(graph, section, group)
            probes = _fit(network, train, settings.seed, advance)
            ranked += _measure(network, probes, validation, advance)
    return sorted(ranked, key=lambda each: (each.iou, each.r2), reverse=True)


def grouped(maps: Iterable[FeatureMap], max_bytes: int) -> Iterator[list[FeatureMap]]:
    """Yields the maps in order, in groups that fit into memory; each has at least one map.

    Args:
      maps: The maps.
      max_bytes: Memory for one group.
    """
    group: list[FeatureMap] = []
    left = max_bytes
    for each in maps:
        needed = _bytes(each)
        if group and needed > left:
            yield group
            group, left = [], max_bytes
        group.append(each)
        left -= needed
    if group:
        yield group


def person_shares(mask: UInt8[np.ndarray, "h w"], each: FeatureMap) -> Float[np.ndarray, " cells"]:
    """Returns the share of person in each cell of a map, row by row.

    Args:
      mask: 1 is a person; height and width are multiples of the map's.
      each: The map.
    """
    height, width = mask.shape
    cells = mask.reshape(each.height, height // each.height, each.width, width // each.width)
    return cells.mean((1, 3)).reshape(-1)


def _bytes(each: FeatureMap) -> int:
    # onnxruntime's map and its transposed copy; the moments of fitted and of held-out rows
    values, columns = each.height * each.width * each.channels, each.channels + 2
    return 2 * 4 * values + 2 * 8 * columns**2


class _Network:
    """Computes some maps of a network for one image as it is read."""

    def __init__(
        self, graph: OnnxGraph, section: config.FrozenNetwork, maps: Sequence[FeatureMap]
    ) -> None:
        self.maps = maps
        self._session = OnnxSession(graph, [each.tensor for each in maps], section.size)
        self._pixels = PixelFormat.of(section.normalization, section.channel_order)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Float[np.ndarray, "cells c"]]:
        height, width, _ = image.shape
        size = self._session.input_size((height, width))
        images = prepare(image_ops.to_float(image[None]), self._pixels, size)
        return [_rows(features) for features in self._session(images)]


def _rows(features: Float[Array, "1 h w c"]) -> Float[np.ndarray, "cells c"]:
    return np.asarray(features).reshape(-1, features.shape[-1])


def _fit(
    network: _Network, train: MaskedImages, seed: int, advance: Callable[[], None]
) -> list[LinearProbe | None]:
    """Fits a probe for each map; None where a value is not finite."""
    moments: list[tuple[Moments, Moments]] = []
    for number, (image, mask) in enumerate(train):
        features = network(image)
        moments = moments or [
            (Moments(shift), Moments(shift)) for shift in (rows.mean(0) for rows in features)
        ]
        for each, rows, (fitted, held_out) in zip(network.maps, features, moments, strict=True):
            # As many cells of each image, the same ones in maps of one size.
            count = min(CELLS, len(rows))
            cells = np.random.default_rng([seed, number]).permutation(len(rows))[:count]
            into = fitted if number % _HELD_OUT else held_out
            into.add(rows[cells], person_shares(mask, each)[cells])
        advance()
    return [fit_probe(*both) if all(part.finite for part in both) else None for both in moments]


def _measure(
    network: _Network,
    probes: Sequence[LinearProbe | None],
    validation: MaskedImages,
    advance: Callable[[], None],
) -> list[RankedFeature]:
    scores = [ProbeScores() for _ in network.maps]
    for image, mask in validation:
        for each, rows, probe, score in zip(
            network.maps, network(image), probes, scores, strict=True
        ):
            if probe:
                score.add(probe(rows), person_shares(mask, each))
        advance()
    return [
        RankedFeature(each, probe, score.iou, score.r2)
        for each, probe, score in zip(network.maps, probes, scores, strict=True)
        if probe and np.isfinite(score.r2)
    ]
