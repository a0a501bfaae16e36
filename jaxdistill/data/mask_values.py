"""What a person is in masks that are image files: white, a value, a palette index, or alpha."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from jaxdistill import config
from jaxdistill.data.decode import Stored
from jaxdistill.runtime.errors import DataError

_WHITE, _ALPHA = "white is a person", "what is not transparent is a person"
_ONES = "the masks have the values 0 and 1: 1 is a person"
_BRIGHT, _DARK = 247, 8
"""Grey levels from which on a pixel is white and up to which it is black, after JPEG's losses."""
_MOST_SOFT = 0.1
"""Largest share of pixels that are neither black nor white in masks with soft edges."""
_SHOWN = 12


class UnknownValuesError(Exception):
    """It cannot be told what a person is; the message lists the values that were found."""


class MaskEncoding(NamedTuple):
    """How masks say where a person is."""

    values: config.MaskValues | Literal["ones"]
    """As `data.mask_values`; `ones`: a person is 1, in grey levels or palette indices."""

    @property
    def note(self) -> str:
        """What was found out, for people; empty for white, which is expected."""
        return {"ones": _ONES, "alpha": _ALPHA}.get(str(self.values), "")


def find_out(masks: Iterable[Stored]) -> MaskEncoding:
    """Finds out what a person is in masks of one data set.

    - Masks whose opacity varies: what is not transparent.
    - Grey levels, or a palette of grey levels: white, where black and white fill nine tenths of the
      masks and the rest are soft edges; 1, where there is no value above 1.
    - A palette of colours: the index 1, if it has no other index than 0.

    Args:
      masks: Some of the masks.

    Raises:
      UnknownValuesError: Nothing of this applies, or the masks differ in kind.
    """
    found: dict[str, Counter[int]] = {}
    levels: Counter[int] = Counter()
    for mask in masks:
        if _opacity_varies(mask):
            return MaskEncoding("alpha")
        kind, values = _kind(mask)
        numbers, counts = np.unique(values.reshape(-1), return_counts=True)
        counter = found.setdefault(kind, Counter())
        shift = 8 if numbers[-1] > 255 else 0  # a mask of 16 bits may have the values of one of 8
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            counter[number] += count
            levels[number >> shift] += count
    if not found:
        return MaskEncoding("white")
    if len(found) > 1 and list(found.get("grey levels", {0: 1})) == [0]:
        found.pop("grey levels", None)  # masks without people, which are black in every kind
    if len(found) == 1:
        [(kind, counts_by_value)] = found.items()
        if kind != "colours" and max(counts_by_value) <= 1:
            return MaskEncoding("ones" if max(counts_by_value) else "white")
        if kind == "grey levels" and _is_black_and_white(levels):
            return MaskEncoding("white")
    raise UnknownValuesError("; ".join(_listed(kind, counts) for kind, counts in found.items()))


def unknown(section: str, place: object, error: UnknownValuesError) -> DataError:
    """Returns the error for masks whose values are not understood.

    Args:
      section: The key of the images: `data.train`, `data.additional` and so on.
      place: Folder or file of the masks.
      error: Which values were found.
    """
    key = "data.additional.mask_values" if section == "data.additional" else "data.mask_values"
    return DataError(
        f"{section}: {place}: it cannot be told what a person is in masks: {error}; set {key} to "
        f"white, alpha, or the values of a person, such as [15] or ['#c08080']",
        code="unknown-mask-values",
    )


def person(mask: Stored, encoding: MaskEncoding) -> Bool[np.ndarray, "h w"]:
    """Returns where a person is.

    Args:
      mask: The mask as it is stored.
      encoding: How masks say where a person is.

    Raises:
      UnknownValuesError: The mask has values that contradict the encoding.
    """
    if isinstance(encoding.values, str):
        return _READERS[encoding.values](mask)
    parts = [
        _colours(mask) == int(value[1:], 16) if isinstance(value, str) else _plain(mask) == value
        for value in encoding.values
    ]
    return np.any(parts, axis=0)


def _of_white(mask: Stored) -> Bool[np.ndarray, "h w"]:
    values = mask.values if mask.palette is None else mask.palette[mask.values]
    # A mask of 16 bits may have the values of one of 8.
    half = 127 if values.max(initial=0) < 256 else np.iinfo(values.dtype).max // 2
    return values > half if values.ndim == 2 else values.mean(-1) > half


def _of_alpha(mask: Stored) -> Bool[np.ndarray, "h w"]:
    if mask.alpha is None:
        raise UnknownValuesError("it has no alpha channel, and others have one")
    return mask.alpha > 127


def _of_ones(mask: Stored) -> Bool[np.ndarray, "h w"]:
    values = _plain(mask)
    if values.max(initial=0) > 1:
        raise UnknownValuesError(f"it has the value {values.max()}, and others have 0 and 1 only")
    return values == 1


_READERS: dict[str, Callable[[Stored], Bool[np.ndarray, "h w"]]] = {
    "white": _of_white,
    "alpha": _of_alpha,
    "ones": _of_ones,
}


def _plain(mask: Stored) -> np.ndarray:
    """Returns grey levels or palette indices (h, w); a grey image may be stored as RGB."""
    return mask.values if mask.values.ndim == 2 else mask.values[..., 0]


def _colours(mask: Stored) -> np.ndarray:
    """Returns colours (h, w) as 0xRRGGBB."""
    values = mask.values if mask.palette is None else mask.palette[mask.values]
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, -1)
    return values.astype(np.uint32) @ np.asarray([1 << 16, 1 << 8, 1], np.uint32)


def _kind(mask: Stored) -> tuple[str, np.ndarray]:
    """Returns the kind of values of a mask, for people, and the values (h, w)."""
    if mask.palette is not None:
        used = mask.palette[np.unique(mask.values)]
        if not _is_grey(used):
            return "palette indices", mask.values
        return "grey levels", mask.palette[mask.values][..., 0]
    if mask.values.ndim == 3 and not _is_grey(mask.values):
        return "colours", _colours(mask)
    return "grey levels", _plain(mask)


def _is_grey(colours: UInt8[np.ndarray, "*n 3"]) -> bool:
    return bool((np.ptp(colours.astype(np.int16), axis=-1) <= _DARK).all())


def _opacity_varies(mask: Stored) -> bool:
    alpha = mask.alpha
    return alpha is not None and bool(alpha.min(initial=255) <= _DARK < _BRIGHT <= alpha.max())


def _is_black_and_white(levels: Mapping[int, int]) -> bool:
    """Whether grey levels are those of black and white with soft edges, and not classes.

    Numbers of classes are small, with 255 for what is to be ignored at the most. Soft edges have
    bright values as well.
    """
    white = max(levels) >= _BRIGHT
    soft = {level: count for level, count in levels.items() if _DARK < level < _BRIGHT}
    few = sum(soft.values()) <= _MOST_SOFT * sum(levels.values())
    exact = not soft and all(level in (0, 255) or level >= _BRIGHT for level in levels)
    return white and few and (exact or any(level > 127 for level in soft))


def _listed(kind: str, counts: "Counter[int]") -> str:
    total = counts.total()
    shown = [
        f"{f'#{value:06x}' if kind == 'colours' else value} ({count / total:.1%})"
        for value, count in counts.most_common(_SHOWN)
    ]
    more = f" and {len(counts) - _SHOWN} others" if len(counts) > _SHOWN else ""
    return f"{kind} {', '.join(shown)}{more}"
