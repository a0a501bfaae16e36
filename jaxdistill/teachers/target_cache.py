"""Targets from the store; what it lacks is computed, and kept."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from jaxdistill.teachers.cache_files import Damaged, Entry, Shapes, Shelf
from jaxdistill.teachers.onnx_teacher import FrozenNetworks
from jaxdistill.types import TeacherOutputs

log = logging.getLogger(__name__)

_READERS = 4  # files read at once
Name = tuple[int, bool]  # a picture's id, and whether it is flipped


class Encoder(NamedTuple):
    """A frozen encoder, as far as the store must know it."""

    identity: dict[str, Any]
    shapes: Shapes
    encode: Callable[[Float[Array, "1 h w 3"]], Sequence[Float[Array, "1 _ _ _"]]]


class StoredTargets:
    """The frozen networks' targets of one split, in float16, each computed once.

    Args:
      root: the store's folder.
      networks: what computes targets of teacher and detector.
      data: a fingerprint of the pictures.
      image_size: height and width of the pictures.
      encoder: whose taps are kept too; None keeps none.
    """

    def __init__(
        self,
        root: Path,
        networks: FrozenNetworks,
        data: str,
        image_size: tuple[int, int],
        encoder: Encoder | None,
    ) -> None:
        self._networks, self._encoder = networks, encoder
        pictures = {"data": data, "image_size": image_size}
        shapes = {"teacher": [(*image_size, 1)], "detector": networks.feature_shapes}
        self.shelves = {
            role: Shelf(root, role, {**pictures, **identity}, shapes[role])
            for role, identity in networks.roles.items()
        }
        if encoder:
            identity = {**pictures, **encoder.identity}
            self.shelves["encoder"] = Shelf(root, "encoder", identity, encoder.shapes)
        self.read = self.computed = self.damaged = 0

    def targets(
        self,
        images: Float[Array, "b h w 3"],
        pictures: Int[np.ndarray, " b"],
        flipped: Bool[np.ndarray, " b"],
        weights: Float[np.ndarray, " b"],
    ) -> TeacherOutputs:
        """Targets of these images in float16; of padding, zeros.

        Args:
          images: in [0, 1], as the data set has them, but for flips.
          pictures: their ids.
          weights: 0 for padding.
        """
        names = {
            row: (int(pictures[row]), bool(flipped[row]))
            for row in range(len(pictures))
            if weights[row] > 0
        }
        found = {role: self._find(shelf, names) for role, shelf in self.shelves.items()}
        self._complete(images, names, found)
        batch = {
            role: tuple(map(jnp.asarray, _stack(found[role], shelf.shapes, len(pictures))))
            for role, shelf in self.shelves.items()
        }
        [logits] = batch.get("teacher", [None])
        return TeacherOutputs(logits, batch.get("detector", ()), batch.get("encoder"))

    def lacks(self, picture: int, flipped: bool) -> bool:
        """Whether something of that picture is not there yet."""
        return not all(shelf.holds(picture, flipped) for shelf in self.shelves.values())

    @property
    def entry_bytes(self) -> int:
        """On disk, of one picture."""
        return sum(shelf.entry_bytes for shelf in self.shelves.values())

    @property
    def counts(self) -> dict[str, int]:
        """Entries so far: read, computed, and of these the ones that were damaged."""
        return {"read": self.read, "computed": self.computed, "damaged": self.damaged}

    def _find(self, shelf: Shelf, names: Mapping[int, Name]) -> dict[int, Entry]:
        """The sound entries that there are, by row."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="store") as readers:
            reading = {row: readers.submit(shelf.read, *name) for row, name in names.items()}
        found = {}
        for row, future in reading.items():
            try:
                entry = future.result()
            except Damaged as damage:
                self.damaged += 1
                log.warning("damaged, and computed again: %s", damage)
                continue
            if entry is not None:
                found[row] = entry
        self.read += len(found)
        return found

    def _complete(
        self, images: Array, names: Mapping[int, Name], found: dict[str, dict[int, Entry]]
    ) -> None:
        """Computes what was not found, and keeps it; rows that lack the same, at once."""
        together: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row in names:
            together[tuple(role for role in found if row not in found[role])].append(row)
        for roles, rows in together.items():
            for role, arrays in self._compute(images, rows, roles).items():
                for row, *entry in zip(rows, *map(np.asarray, arrays), strict=True):
                    found[role][row] = self.shelves[role].write(*names[row], entry)
                self.computed += len(rows)

    def _compute(
        self, images: Float[Array, "b h w 3"], rows: Sequence[int], roles: Collection[str]
    ) -> dict[str, Sequence[Float[Any, "r _ _ _"]]]:
        made: dict[str, Sequence[Any]] = {}
        if networks := set(roles) - {"encoder"}:
            targets = self._networks.targets(images[np.asarray(rows)], networks)
            made = {"teacher": [targets.logits], "detector": targets.features}
        if self._encoder and "encoder" in roles:
            # One by one: a program compiled for every number of rows would cost more.
            each = [self._encoder.encode(images[row : row + 1]) for row in rows]
            made["encoder"] = [np.concatenate(taps) for taps in zip(*each, strict=True)]
        return {role: made[role] for role in roles}


def _stack(
    entries: Mapping[int, Entry], shapes: Shapes, count: int
) -> list[Float16[np.ndarray, "b _ _ _"]]:
    stacked = [np.zeros((count, *shape), np.float16) for shape in shapes]
    for row, entry in entries.items():
        for batch, array in zip(stacked, entry, strict=True):
            batch[row] = array
    return stacked
