"""Probes a frozen network's maps: fitted to training pictures, measured on validation pictures.

The network runs on some tensors at once, as many as memory allows; of a training picture's map only
a sample of cells is kept, and of that only sums.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, UInt8
from rich.console import Console
from rich.progress import Progress

from jaxdistill import config
from jaxdistill.analysis.linear_probe import Probe, Sums, Tally, fit
from jaxdistill.data import image_ops
from jaxdistill.data.dataset import Dataset
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxNetwork
from jaxdistill.teachers.onnx_teacher import prepare
from jaxdistill.teachers.onnx_tensors import Map

MEMORY = 2**30
"""Bytes that the tensors computed at once may take, with what is kept of them."""
CELLS = 512
"""Of each training picture, those that a probe is fitted to."""
_HELD_OUT = 5  # one training picture in so many chooses the ridge


class Ranked(NamedTuple):
    """A tensor, and how well its probe did."""

    map: Map
    probe: Probe
    iou: float
    """Of the validation's cells that are more than half person."""
    r2: float
    """Of the share of person in the validation's cells."""


class Sample:
    """Some pictures with masks of a split, the same ones each time.

    Args:
      count: how many, at most.

    Raises:
      UserError: none has a mask.
    """

    def __init__(self, dataset: Dataset, settings: config.Config, count: int) -> None:
        self.fingerprint = dataset.fingerprint
        """Of all pictures of the split."""
        self._examples, self._size = dataset, settings.data.image_size
        labelled = np.flatnonzero(dataset.labelled)
        if not len(labelled):
            raise UserError(
                f"{settings.data.root}: a probe is fitted to masks, and measured on masks: give "
                f"the annotations of both data.train and data.validation"
            )
        order = np.random.default_rng(settings.seed).permutation(len(labelled))
        self._indices = labelled[np.sort(order[:count])]

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]]:
        """Pictures and their masks in {0, 1}, at `data.image_size`."""
        for index in self._indices.tolist():
            image, mask = self._examples[index]
            assert mask is not None
            yield (
                image_ops.resize_image(image, self._size),
                image_ops.resize_mask(mask, self._size),
            )


def rank(
    graph: OnnxGraph,
    section: config.FrozenNetwork,
    settings: config.Config,
    maps: Sequence[Map],
    train: Sample,
    validation: Sample,
    console: Console,
    memory: int = MEMORY,
) -> list[Ranked]:
    """The maps whose values are all finite, the one with the highest IoU first.

    Args:
      section: how the network is fed.
      maps: of sides that divide `data.image_size`.

    Raises:
      UserError: fewer than two pictures to fit to.
    """
    if len(train) < 2:
        raise UserError(f"{settings.data.root}: a probe needs at least 2 training pictures")
    groups = list(group(maps, memory))
    ranked: list[Ranked] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("probing", total=len(groups) * (len(train) + len(validation)))
        advance = partial(bar.advance, task)
        for together in groups:
            network = _Network(graph, section, settings.data.image_size, together)
            probes = _fit(network, train, settings.seed, advance)
            ranked += _measure(network, probes, validation, advance)
    return sorted(ranked, key=lambda each: (each.iou, each.r2), reverse=True)


def group(maps: Iterable[Map], memory: int) -> Iterator[list[Map]]:
    """In order, as many at once as fit into so many bytes, and at least one."""
    together: list[Map] = []
    left = memory
    for each in maps:
        needed = _bytes(each)
        if together and needed > left:
            yield together
            together, left = [], memory
        together.append(each)
        left -= needed
    if together:
        yield together


def _bytes(each: Map) -> int:
    # onnxruntime's map and its transposed copy; the sums of the fitted rows and of the held-out
    values, columns = each.height * each.width * each.channels, each.channels + 2
    return 2 * 4 * values + 2 * 8 * columns**2


class _Network:
    """Some maps of a network, for one picture as it is read."""

    def __init__(
        self,
        graph: OnnxGraph,
        section: config.FrozenNetwork,
        image_size: config.Size,
        maps: Sequence[Map],
    ) -> None:
        self.maps = maps
        tensors = [each.tensor for each in maps]
        self._network = OnnxNetwork(graph, tensors, section.size, image_size)
        self._normalization = image_ops.resolve(section.normalization)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Float[np.ndarray, "cells c"]]:
        images = prepare(image_ops.to_float(image[None]), self._normalization, self._network.size)
        return [_rows(given) for given in self._network(images)]


def _rows(given: Float[Array, "1 h w c"]) -> Float[np.ndarray, "cells c"]:
    return np.asarray(given).reshape(-1, given.shape[-1])


def shares(mask: UInt8[np.ndarray, "h w"], each: Map) -> Float[np.ndarray, " cells"]:
    """The share of person in each cell of a map."""
    height, width = mask.shape
    cells = mask.reshape(each.height, height // each.height, each.width, width // each.width)
    return cells.mean((1, 3)).reshape(-1)


def _fit(
    network: _Network, train: Sample, seed: int, advance: Callable[[], None]
) -> list[Probe | None]:
    """A probe for each map; None where a value is not finite."""
    sums: list[tuple[Sums, Sums]] = []
    for number, (image, mask) in enumerate(train):
        given = network(image)
        sums = sums or [(Sums(about), Sums(about)) for about in (rows.mean(0) for rows in given)]
        for each, rows, (fitted, held_out) in zip(network.maps, given, sums, strict=True):
            # As many cells of each picture, the same ones in maps of one size.
            count = min(CELLS, len(rows))
            cells = np.random.default_rng([seed, number]).permutation(len(rows))[:count]
            into = fitted if number % _HELD_OUT else held_out
            into.add(rows[cells], shares(mask, each)[cells])
        advance()
    return [fit(*both) if all(part.finite for part in both) else None for both in sums]


def _measure(
    network: _Network,
    probes: Sequence[Probe | None],
    validation: Sample,
    advance: Callable[[], None],
) -> list[Ranked]:
    tallies = [Tally() for _ in network.maps]
    for image, mask in validation:
        for each, rows, probe, tally in zip(
            network.maps, network(image), probes, tallies, strict=True
        ):
            if probe:
                tally.add(probe(rows), shares(mask, each))
        advance()
    return [
        Ranked(each, probe, tally.iou, tally.r2)
        for each, probe, tally in zip(network.maps, probes, tallies, strict=True)
        if probe and np.isfinite(tally.r2)
    ]
