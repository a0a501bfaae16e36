"""The frozen networks of a run: pictures become the targets that the student imitates."""

import copy
import functools
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill.config import Config, FrozenNetwork, OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import UserError
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxNetwork
from jaxdistill.types import TeacherOutputs

PROBABILITY_MARGIN = 1e-4
"""How far from 0 and 1 a probability is kept before it becomes a logit.

A float32 sigmoid reaches 0 and 1 exactly, whose logits are infinite; and beyond +-9.2 the squared
distance between logits would be ruled by pixels on which everybody agrees already.
"""


class FrozenNetworks:
    """The teacher and the detector of a configuration, each given its own normalisation and size.

    Where both are the same file, fed the same way, it is opened and run once. `threads` bounds
    onnxruntime's threads on the CPU.

    Raises:
      UserError: whatever `OnnxGraph` and `OnnxNetwork` find wrong with a file; or the teacher's
        tensor has more than one channel.
    """

    def __init__(self, config: Config, threads: int | None = None) -> None:
        graph = functools.cache(OnnxGraph)
        wanted: dict[str, tuple[FrozenNetwork, tuple[str, ...]]] = {}
        if config.teacher:
            tensor = config.teacher.tensor or graph(config.teacher.onnx).outputs[0]
            wanted["teacher"] = (config.teacher, (tensor,))
            self._gives = config.teacher.output
        if config.detector and config.taught_features:
            tensors = tuple(feature.tensor for feature in config.taught_features)
            wanted["detector"] = (config.detector, tensors)

        together: dict[_Feed, list[str]] = defaultdict(list)
        for section, tensors in wanted.values():
            together[_feed(section)] += tensors
        networks = {
            feed: OnnxNetwork(
                graph(feed.onnx),
                list(dict.fromkeys(tensors)),
                feed.size,
                config.data.image_size,
                threads,
            )
            for feed, tensors in together.items()
        }
        self._networks = list(networks.items())
        self._roles = {
            role: _Role(section, tensors, networks[_feed(section)])
            for role, (section, tensors) in wanted.items()
        }
        self.fingerprints = {
            role: graph(section.onnx).fingerprint for role, (section, _) in wanted.items()
        }
        """SHA-256, in hexadecimal, of the file behind `teacher` and `detector`."""
        self._check_teacher()

    def only(self, *roles: str) -> "FrozenNetworks":
        """These networks, asked for less."""
        fewer = copy.copy(self)
        fewer._roles = {role: part for role, part in self._roles.items() if role in roles}
        return fewer

    @property
    def feature_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(h, w, C) of each of `config.taught_features`."""
        return self._roles["detector"].shapes if "detector" in self._roles else ()

    @property
    def roles(self) -> dict[str, dict[str, Any]]:
        """`teacher` and `detector`, as far as configured, and all that their values depend on."""
        return {role: self._identity(role) for role in self._roles}

    def targets(
        self, images: Float[Array, "b h w 3"], roles: Collection[str] | None = None
    ) -> TeacherOutputs:
        """Runs the networks on pictures in [0, 1], as they are after augmentation.

        Args:
          roles: those wanted, of `self.roles`; None wants all.
        """
        chosen = {k: part for k, part in self._roles.items() if roles is None or k in roles}
        needed = {part.network for part in chosen.values()}
        given: dict[OnnxNetwork, dict[str, Array]] = {}
        for feed, network in self._networks:
            if network not in needed:
                continue
            pictures = prepare(images, feed.normalization, network.size)
            given[network] = dict(zip(network.tensors, network(pictures), strict=True))
        maps = {
            role: tuple(given[part.network][tensor] for tensor in part.tensors)
            for role, part in chosen.items()
        }
        logits = None
        if "teacher" in maps:
            logits = to_logits(maps["teacher"][0], self._gives, images.shape[1:3])
        return TeacherOutputs(logits, maps.get("detector", ()))

    def describe(self) -> list[str]:
        """A line for each network: file, tensors with their shapes, input, provider."""
        lines = []
        for role, part in self._roles.items():
            shapes = dict(zip(part.tensors, part.shapes, strict=True))
            tensors = ", ".join(
                f"{tensor} ({h} x {w} x {c})" for tensor, (h, w, c) in shapes.items()
            )
            height, width = part.network.size
            kind = f" as {self._gives}" if role == "teacher" else ""
            lines.append(
                f"{role}: {part.section.onnx}, {tensors}{kind}, from pictures of "
                f"{height} x {width} ({part.section.normalization}), on {part.network.provider}"
            )
        return lines

    def _identity(self, role: str) -> dict[str, Any]:
        part = self._roles[role]
        return {
            "file": self.fingerprints[role],
            "tensors": part.tensors,
            "normalization": image_ops.resolve(part.section.normalization),
            "size": part.network.size,
            **({"gives": self._gives} if role == "teacher" else {}),
        }

    def _check_teacher(self) -> None:
        if "teacher" not in self._roles:
            return
        teacher = self._roles["teacher"]
        [(_, _, channels)] = teacher.shapes
        if channels != 1:
            raise UserError(
                f"{teacher.section.onnx}: the teacher's tensor {teacher.tensors[0]!r} should be a "
                f"mask of 1 channel, but has {channels}; name another one as teacher.tensor"
            )


class _Feed(NamedTuple):
    """A file and how it is fed; what is fed alike is run once."""

    onnx: Path
    normalization: image_ops.Normalization
    size: Size | None


class _Role(NamedTuple):
    """What is read for one purpose, and where from."""

    section: FrozenNetwork
    tensors: tuple[str, ...]
    network: OnnxNetwork

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        known = dict(zip(self.network.tensors, self.network.shapes, strict=True))
        return tuple(known[tensor] for tensor in self.tensors)


def _feed(section: FrozenNetwork) -> _Feed:
    return _Feed(section.onnx, image_ops.resolve(section.normalization), section.size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def prepare(
    images: Float[Array, "b h w 3"], normalization: image_ops.Normalization, size: Size
) -> Float[Array, "b {*size} 3"]:
    """Pictures in [0, 1] as a frozen network wants them."""
    return image_ops.normalize(image_ops.resize(images, size), normalization)


@functools.partial(jax.jit, static_argnums=(1, 2))
def to_logits(
    mask: Float[Array, "b h w 1"], gives: OutputKind, size: Size
) -> Float[Array, "b {*size} 1"]:
    """A mask tensor, whatever it holds, as logits of another size."""
    mask = image_ops.resize(mask, size)
    if gives == "logits":
        return mask
    return jax.scipy.special.logit(jnp.clip(mask, PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN))
