"""Copy-paste: the people of one image, on another one ([Ghiasi et al. 2021]).

It works on the host, on images as they are read, so that a teacher sees the image that comes of it.

[Ghiasi et al. 2021]: https://arxiv.org/abs/2012.07177
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_SMALLEST, _LARGEST = 0.5, 1.25  # factors of the people's size


class _Cut(NamedTuple):
    """Whether people are cut off by the borders of their image."""

    start: bool
    end: bool


def paste(
    random: np.random.Generator,
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "h w"],
    donor: UInt8[np.ndarray, "h w 3"],
    people: UInt8[np.ndarray, "h w"],
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Pastes the people of one image on another one, scaled, flipped and moved.

    Their size is multiplied by 0.5 to 1.25, half of them are flipped left to right, and their place
    is uniform within the image. A border that cut them off does so again, as far as it is at the
    same side, so that nobody ends in the middle of the image.

    Args:
      random: Draws scale, flip and place.
      image: RGB.
      mask: Its mask of 0 and 1.
      donor: RGB; the image whose people are pasted.
      people: Its mask of 0 and 1; where it is empty nothing is pasted.

    Returns:
      The image and its mask.
    """
    rows, columns = (np.flatnonzero(people.any(axis)) for axis in (1, 0))
    if not len(rows):
        return image, mask
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cuts = [
        _Cut(places[0] == 0, places[-1] == room - 1)
        for places, room in zip((rows, columns), people.shape, strict=True)
    ]
    scale = np.exp(random.uniform(np.log(_SMALLEST), np.log(_LARGEST)))
    patch, shares = _resized(donor[box], scale), _resized(people[box].astype(np.float32), scale)
    if random.random() < 0.5:
        patch, shares, cuts[1] = patch[:, ::-1], shares[:, ::-1], _Cut(*cuts[1][::-1])
    starts = [
        _place(random, room, length, cut)
        for room, length, cut in zip(mask.shape, shares.shape, cuts, strict=True)
    ]
    # The part of the image that is covered, and the part of the patch that is within the image.
    here, there = zip(
        *(
            (slice(max(0, start), start + length), slice(max(0, -start), room - start))
            for start, room, length in zip(starts, mask.shape, shares.shape, strict=True)
        ),
        strict=True,
    )
    image, mask, share = image.copy(), mask.copy(), shares[there]
    below = image[here].astype(np.float32)
    blended = below + share[..., None] * (patch[there] - below)
    image[here] = np.rint(blended).astype(np.uint8)
    mask[here] |= share > 0.5
    return image, mask


def _resized(map_: np.ndarray, scale: float) -> Float[np.ndarray, "h w *c"]:
    height, width = (max(1, round(side * scale)) for side in map_.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(map_.astype(np.float32), (width, height), interpolation=method)


def _place(random: np.random.Generator, room: int, length: int, cut: _Cut) -> int:
    """Returns where people start along a side of the image."""
    free = room - length
    start = int(random.integers(min(0, free), max(0, free), endpoint=True))
    if cut.end:
        return free
    return 0 if cut.start else start
