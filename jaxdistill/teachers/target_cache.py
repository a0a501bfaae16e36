"""The target cache: teacher outputs on disk, computed once per image, and once for it flipped."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Num

from jaxdistill.config import Size
from jaxdistill.runtime.errors import CacheError
from jaxdistill.teachers import base
from jaxdistill.teachers.base import OutputShapes, Shape, Teacher
from jaxdistill.teachers.cache_files import CacheFolder, DamagedEntryError, Entry
from jaxdistill.types import TeacherOutputs

log = logging.getLogger(__name__)

IMAGE_VERSION = 1
"""Part of every folder's name. Increase it when images are decoded or resized to other pixels, so
that nothing cached before is used."""
_READERS = 4  # files read at once

_EntryName = tuple[str, bool]  # content key, and whether the image is flipped


class CachedEncoder(NamedTuple):
    """The student's frozen encoder, whose feature maps are cached with the teacher's outputs."""

    provenance: Mapping[str, Any]
    """All that its values depend on, such as a fingerprint of its weights; plain values."""
    shapes: Sequence[Shape]
    """(h, w, C) of each feature map."""
    encode: Callable[[Float[Array, "b h w 3"]], Sequence[Float[Array, "b _ _ _"]]]
    """Computes the feature maps of images in [0, 1]: a batch on a GPU, one image on a CPU."""


class CachedTeacher:
    """A teacher whose outputs are kept in a cache directory, each image's computed once.

    A flipped image has an entry of its own, because a network's mask of it is not the flipped mask.
    The directory has a folder for each kind of outputs (`logits`, `features`, `encoder`), named by
    a digest of the teacher's provenance and of the image size; of several teachers (`Ensemble`) one
    for each. An entry is found by the content of its image, so adding or changing images leaves
    those of the others valid. Values are rounded to float16. Any number of processes may share the
    directory.

    Args:
      teacher: Computes what is missing; it must declare its `provenance`. None caches the encoder
        alone.
      directory: The cache directory; it is made where it does not exist.
      image_size: Height and width of the images; None takes those of the first batch.
      encoder: The student's frozen encoder, where its feature maps are cached too.

    Raises:
      CacheError: The teacher declares no provenance (`cache-provenance`), or the directory cannot
        be written (`cache-write`).
    """

    def __init__(
        self,
        teacher: Teacher | None,
        directory: Path | str,
        *,
        image_size: Size | None = None,
        encoder: CachedEncoder | None = None,
    ) -> None:
        if teacher is not None and not base.has_provenance(teacher):
            raise CacheError(
                f"{base.provenance_of(teacher)['callable']}: cannot be cached without knowing what "
                f"its outputs depend on; give it an attribute `provenance`, a dictionary with, for "
                f"example, the SHA-256 of its weights",
                code="cache-provenance",
            )
        self.teacher, self.directory, self.encoder = teacher, Path(directory), encoder
        self.hits = self.computed = self.damaged = 0
        self._masks = base.restrict(teacher, features=False)
        members: Sequence[Teacher] = getattr(self._masks, "members", ())
        self._members = {f"logits {index}": each for index, each in enumerate(members)}
        self._folders: dict[str, CacheFolder] | None = None
        self.image_size: Size | None = None
        if image_size is not None:
            self._open(image_size)

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        keys: Sequence[str] | None = None,
        flipped: Bool[np.ndarray, " b"] | None = None,
        weights: Float[np.ndarray, " b"] | None = None,
    ) -> TeacherOutputs:
        """Returns the outputs of a batch in float16, zeros for padding.

        Args:
          images: Images in [0, 1], unchanged but for flips.
          keys: The content key of each image, such as `content_key` gives; None hashes the images
            as they are.
          flipped: Whether each image is flipped left to right; None where none is.
          weights: 0 for padding; None where there is none.

        Raises:
          CacheError: The images have another size than `image_size` (`cache-image-size`), or the
            cache cannot be read or written; see `CacheFolder`.
        """
        images = jnp.asarray(images)
        batch, height, width, _ = images.shape
        folders = self._open((height, width))
        if keys is None:
            keys = [content_key(image) for image in np.asarray(images)]
        names: dict[int, _EntryName] = {
            row: (keys[row], flipped is not None and bool(flipped[row]))
            for row in range(batch)
            if weights is None or weights[row] > 0
        }
        found = {kind: self._read(folder, names) for kind, folder in folders.items()}
        self._complete(images, names, found)
        outputs = {
            kind: tuple(
                jax.device_put(maps, images.sharding)
                for maps in _stack(found[kind], folder.shapes, batch)
            )
            for kind, folder in folders.items()
        }
        [logits] = outputs.get("logits", [None])
        if self._members:
            parts = [outputs[name][0] for name in self._members]
            logits = self._masks.merge(parts).astype(jnp.float16)  # type: ignore[union-attr]
        return TeacherOutputs(logits, outputs.get("features", ()), outputs.get("encoder"))

    def contains(self, key: str, flipped: bool = False) -> bool:
        """Returns whether all outputs of an image are there.

        Args:
          key: The content key of the image.
          flipped: Whether it is flipped left to right.
        """
        return all(folder.contains(key, flipped) for folder in self._opened().values())

    @property
    def entry_bytes(self) -> int:
        """Size on disk of the outputs of one image."""
        return sum(folder.entry_bytes for folder in self._opened().values())

    @property
    def counts(self) -> dict[str, int]:
        """Entries so far: `hits`, `computed`, and of these the `damaged` ones."""
        return {"hits": self.hits, "computed": self.computed, "damaged": self.damaged}

    @property
    def provenance(self) -> dict[str, Any]:
        """All that the outputs depend on, as the teacher declares it."""
        return base.provenance_of(self.teacher)

    def set_batch_size(self, batch_size: int) -> None:
        """Tells the teacher how many images each device will be given at once."""
        base.set_batch_size(self.teacher, batch_size)

    def output_shapes(self, image_size: Size) -> OutputShapes:
        """Returns the shapes of the teacher's outputs for images of a size."""
        return base.output_shapes(self.teacher, image_size)

    def describe(self) -> list[str]:
        """Returns the lines about the teacher, and one about the cache."""
        return [*base.describe_teacher(self.teacher), f"target cache: {self.directory}"]

    def restrict(self, *, logits: bool = True, features: bool = True) -> "CachedTeacher | None":
        """Returns this teacher with fewer outputs, on the same directory; None where none is left.

        Args:
          logits: Whether the mask is needed.
          features: Whether the feature maps are needed.
        """
        teacher = base.restrict(self.teacher, logits=logits, features=features)
        if teacher is None and self.encoder is None:
            return None
        return CachedTeacher(
            teacher, self.directory, image_size=self.image_size, encoder=self.encoder
        )

    def with_encoder(self, encoder: CachedEncoder | None, image_size: Size) -> "CachedTeacher":
        """Returns this teacher, on the same directory, with an encoder cached beside it.

        Args:
          encoder: The student's frozen encoder; None caches none.
          image_size: Height and width of the images.
        """
        return CachedTeacher(self.teacher, self.directory, image_size=image_size, encoder=encoder)

    def _opened(self) -> dict[str, CacheFolder]:
        if self._folders is None:
            raise ValueError("give CachedTeacher its image_size, or call it first")
        return self._folders

    def _open(self, image_size: Size) -> dict[str, CacheFolder]:
        if self._folders is not None and image_size == self.image_size:
            return self._folders
        if self._folders is not None:
            raise CacheError(
                f"{self.directory}: this CachedTeacher is for images of {self.image_size}, but "
                f"images of {image_size} were given; make another one",
                code="cache-image-size",
            )
        shapes = base.output_shapes(self.teacher, image_size)
        kinds: dict[str, tuple[Mapping[str, Any], Sequence[Shape]]] = {}
        for name, member in self._members.items():
            kinds[name] = base.output_provenance(member, "logits"), [(*image_size, 1)]
        if self.teacher is not None and shapes.logits is not None and not self._members:
            kinds["logits"] = base.output_provenance(self.teacher, "logits"), [shapes.logits]
        if self.teacher is not None and shapes.features:
            kinds["features"] = base.output_provenance(self.teacher, "features"), shapes.features
        if self.encoder:
            kinds["encoder"] = self.encoder.provenance, self.encoder.shapes
        images = {"images": {"size": list(image_size), "version": IMAGE_VERSION}}
        self._folders = {
            name: CacheFolder(self.directory, kind, {**images, kind: provenance}, kept)
            for name, (provenance, kept) in kinds.items()
            for kind in name.split()[:1]
        }
        self.image_size = image_size
        return self._folders

    def _read(self, folder: CacheFolder, names: Mapping[int, _EntryName]) -> dict[int, Entry]:
        """Returns the intact entries of a batch, by row."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="target-cache") as readers:
            reading = {row: readers.submit(folder.read, *name) for row, name in names.items()}
        found = {}
        for row, future in reading.items():
            try:
                entry = future.result()
            except DamagedEntryError as damage:
                self.damaged += 1
                folder.set_aside(*names[row])
                log.warning("damaged, set aside and computed again: %s", damage)
                continue
            if entry is not None:
                found[row] = entry
        self.hits += len(found)
        return found

    def _complete(
        self, images: Array, names: Mapping[int, _EntryName], found: dict[str, dict[int, Entry]]
    ) -> None:
        """Computes and writes what was not found; rows that lack the same outputs go together."""
        folders = self._opened()
        together: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row in names:
            together[tuple(kind for kind in found if row not in found[kind])].append(row)
        for kinds, rows in together.items():
            for kind, arrays in self._compute(images, rows, kinds).items():
                values = [np.asarray(array)[: len(rows)] for array in arrays]
                for row, *entry in zip(rows, *values, strict=True):
                    found[kind][row] = folders[kind].write(*names[row], entry)
                self.computed += len(rows)

    def _compute(
        self, images: Float[Array, "b h w 3"], rows: Sequence[int], kinds: Sequence[str]
    ) -> dict[str, Sequence[Float[Any, "r _ _ _"]]]:
        """Returns the outputs of some rows, on a GPU followed by those of others."""
        on_cpu = all(device.platform == "cpu" for device in images.devices())
        # A GPU is always given whole batches: another program, and another search for cuDNN's
        # algorithms, for every number of rows would cost more than computing some rows twice.
        count, encoded_at_once = (len(rows), 1) if on_cpu else (len(images), len(images))
        chosen = images
        if list(rows) != list(range(len(images))):
            # Chosen on the host: a program that gathers rows of several devices communicates, and
            # this thread must not communicate beside the training step's.
            on_host = np.asarray(images)[np.resize(rows, count)]
            chosen = jax.device_put(on_host, images.sharding)
        computed: dict[str, Sequence[Any]] = {}
        needed = base.restrict(self.teacher, logits="logits" in kinds, features="features" in kinds)
        if needed is not None:
            outputs = needed(chosen)
            computed = {"logits": [outputs.logits], "features": outputs.features}
        for name in self._members.keys() & set(kinds):
            computed[name] = [self._members[name](chosen).logits]
        if self.encoder and "encoder" in kinds:
            each = [
                self.encoder.encode(chosen[start : start + encoded_at_once])
                for start in range(0, count, encoded_at_once)
            ]
            computed["encoder"] = [np.concatenate(maps) for maps in zip(*each, strict=True)]
        return {kind: computed[kind] for kind in kinds}


def content_key(image: Num[np.ndarray, "*batch h w 3"]) -> str:
    """Returns a key of an image's content: a BLAKE2b hash of its pixels, shape and type.

    Args:
      image: The pixels, such as uint8 as they are read; a whole batch has a key too.
    """
    about = f"{image.dtype} {image.shape} ".encode()
    return hashlib.blake2b(about + image.tobytes(), digest_size=20).hexdigest()


def _stack(
    entries: Mapping[int, Entry], shapes: Sequence[Shape], count: int
) -> list[Float16[np.ndarray, "b _ _ _"]]:
    stacked = [np.zeros((count, *shape), np.float16) for shape in shapes]
    for row, entry in entries.items():
        for batch, array in zip(stacked, entry, strict=True):
            batch[row] = array
    return stacked
