"""Ranks the tensors of a configured network, and suggests feature pairs."""

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console

from jaxdistill.analysis.feature_maps import FeatureMap, feature_maps
from jaxdistill.analysis.probing import MaskedImages, RankedFeature, rank_maps
from jaxdistill.config import Config, FrozenNetwork, Size
from jaxdistill.data.splits import open_split
from jaxdistill.models import FeatureInfo, feature_info
from jaxdistill.models.feature_pairs import fitting_taps
from jaxdistill.models.parameters import is_frozen
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.teachers.onnx_graph import OnnxGraph

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the maps that are ranked, in pixels of the image."""
MIN_CHANNELS = 4
"""Channels that a map has at least: fewer are masks and side outputs."""

Role = Literal["detector", "teacher"]


class FeatureRanking(NamedTuple):
    """The result of `rank_features`."""

    metadata: dict[str, Any]
    """What was measured on what: the network's settings, the images, fingerprints."""
    suggestion: dict[str, Any]
    """Configuration keys with the best tensor of each stride; empty where no tap fits any."""
    tensors: list[dict[str, Any]]
    """One row per tensor, the best one first: name, IoU, R², stride, size, cost."""
    not_finite: int
    """How many tensors were left out because they have values that are not finite."""


def rank_features(
    config: Config,
    *,
    network: Role | None = None,
    tensors: Sequence[str] | None = None,
    strides: Sequence[int] = STRIDES,
    images: int = 200,
    console: Console | None = None,
) -> FeatureRanking:
    """Measures how much each inner tensor of a network tells about people.

    A linear probe from a tensor's channels to the share of person in a cell is fitted to training
    images and measured on validation images.

    Args:
      config: The configuration; its `detector` or `teacher` is the network.
      network: Which of the two; None takes the detector where there is one.
      tensors: Name patterns such as `/model.3*`; None takes all tensors but those that only an
        activation reads.
      strides: Strides of the maps to rank, in pixels.
      images: How many images to fit to, and as many to measure on, at most.
      console: Where progress is shown; None shows none.

    Raises:
      ConfigError: No such network is configured (`network-missing`), fewer than 2 images are asked
        for (`too-few-images`), or no tensor matches (`unknown-tensor`, `no-tensors`).
      DataError: The images have no masks, or there are too few.
      NetworkError: The network cannot be used.
    """
    if images < 2:
        raise ConfigError(
            f"images: {images}: a probe needs at least 2 to be fitted to", code="too-few-images"
        )
    console = console or Console(quiet=True)
    role, section = _section(config, network)
    size = config.data.image_size
    graph = OnnxGraph(section.onnx, section.layout)
    found = feature_maps(graph, section.size, size)
    chosen = choose(found, tensors, strides, size, graph.path)
    train, validation = (
        MaskedImages(open_split(config.data, split), config, images)
        for split in ("train", "validation")
    )
    console.print(
        f"{role}: {graph.path}, {len(chosen)} of {len(found)} maps; {len(train)} images to fit "
        f"to, {len(validation)} to measure on",
        markup=False,
    )
    ranked = rank_maps(graph, section, config, chosen, train, validation, console)
    metadata = {
        role: section.model_dump(mode="json"),
        "image_size": size,
        "images": {"train": len(train), "validation": len(validation)},
        "fingerprints": {
            role: graph.fingerprint,
            "train": train.fingerprint,
            "validation": validation.fingerprint,
        },
    }
    return FeatureRanking(
        metadata,
        suggest(ranked, config, role),
        [_row(each, size) for each in ranked],
        len(chosen) - len(ranked),
    )


def choose(
    found: Sequence[FeatureMap],
    patterns: Sequence[str] | None,
    strides: Sequence[int],
    image_size: Size,
    path: Path,
) -> list[FeatureMap]:
    """Returns the maps that are asked for and have the stride of a tap of the student.

    Args:
      found: All maps of the network.
      patterns: Name patterns; None takes all maps but those that only an activation reads.
      strides: The strides that are asked for.
      image_size: Height and width of the images.
      path: The network's file, for messages.

    Raises:
      ConfigError: No map fits (`no-tensors`), or a pattern matches no name (`unknown-tensor`).
    """
    if patterns is None:
        wanted = [each for each in found if not each.internal]
    else:
        names = {name for pattern in patterns for name in _matching(pattern, found, path)}
        wanted = [each for each in found if each.tensor in names]
    fitting = [
        each
        for each in wanted
        if each.channels >= MIN_CHANNELS and _stride(each, image_size) in strides
    ]
    if fitting:
        return fitting
    some = [f"{each.height} x {each.width} x {each.channels}" for each in wanted]
    raise ConfigError(
        f"{path}: no tensor to rank: expected maps of {MIN_CHANNELS} channels or more, at stride "
        f"{', '.join(map(str, strides))} of images of {image_size[0]} x {image_size[1]} "
        f"(data.image_size); found {', '.join(list(dict.fromkeys(some))[:8]) or 'no maps'}",
        code="no-tensors",
    )


def suggest(ranked: Sequence[RankedFeature], config: Config, role: Role) -> dict[str, Any]:
    """Returns configuration keys with the best tensor of each stride and a tap for it.

    Taps of frozen parts are left out, since nothing is trained there; with a frozen encoder,
    stride 32 has no tap. Tensors of the teacher need its file as `detector` too.

    Args:
      ranked: The ranked maps, the best one first.
      config: The configuration.
      role: Whose tensors they are.
    """
    features: dict[FeatureInfo, dict[str, str]] = {}
    known = feature_info(config.student)
    for each in ranked:
        size = (each.map.height, each.map.width)
        taps = fitting_taps(size, config.data.image_size, known)
        trained = [tap for tap in taps if not is_frozen(tap.name, config.student.frozen)]
        in_decoder = [tap for tap in trained if tap.name.startswith("decoder.")]
        for tap in (in_decoder or trained)[:1]:
            features.setdefault(tap, {"tensor": each.map.tensor, "tap": tap.name})
    if not features:
        return {}
    best = {"features": [features[tap] for tap in sorted(features, key=lambda tap: tap.stride)]}
    if role == "detector" or not config.teachers:
        return best
    fields = set(FrozenNetwork.model_fields)
    section = config.teachers[0].model_dump(mode="json", include=fields, exclude_defaults=True)
    section.setdefault("normalization", config.teachers[0].normalization)  # a detector has another
    return {"detector": section, **best}


def _section(config: Config, role: Role | None) -> tuple[Role, FrozenNetwork]:
    sections: dict[Role, FrozenNetwork | None] = {
        "detector": config.detector,
        "teacher": next(iter(config.teachers), None),
    }
    for name, section in sections.items():
        if section is not None and role in (None, name):
            return name, section
    raise ConfigError(
        f"no {role or 'detector and no teacher'} is configured; set detector.onnx=FILE, the "
        f"network whose tensors are to be ranked",
        code="network-missing",
    )


def _matching(pattern: str, found: Sequence[FeatureMap], path: Path) -> list[str]:
    names = [each.tensor for each in found]
    if matching := fnmatch.filter(names, pattern):
        return matching
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(map(repr, near))}" if near else "no name is similar"
    raise ConfigError(
        f"{path}: no tensor's name matches {pattern!r}; {hint}", code="unknown-tensor"
    )


def _stride(each: FeatureMap, image_size: Size) -> int | None:
    """Returns the stride of a map; None unless it is a whole number and the same in both axes."""
    sides = list(zip(image_size, (each.height, each.width), strict=True))
    strides = {side // own for side, own in sides}
    exact = all(side % own == 0 for side, own in sides)
    return strides.pop() if exact and len(strides) == 1 else None


def _row(each: RankedFeature, image_size: Size) -> dict[str, Any]:
    height, width, channels = each.map.height, each.map.width, each.map.channels
    return {
        "tensor": each.map.tensor,
        "operator": each.map.operator,
        "iou": each.iou,
        "r2": each.r2,
        "stride": _stride(each.map, image_size),
        "height": height,
        "width": width,
        "channels": channels,
        "constant_channels": each.probe.constant_channels,
        "ridge": each.probe.ridge,
        "multiplications_share": each.map.cost,
        "cache_bytes_per_image": 2 * height * width * channels,  # float16
    }
