"""Masks that are steady over time, and a measure of how much they flicker.

A network that sees single frames decides anew in each of them, and its masks tremble along the
outline. Averaging over time steadies them, but lags behind what moves. So the average is gated by
motion: where the image does not change, a new frame counts little; where it changes, fully.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxdistill.data.image_ops import RgbImage
from jaxdistill.runtime.errors import ConfigError

_STILL, _MOVING = 4.0, 16.0  # grey levels of change between two frames: noise, and motion
_MARGIN = 5  # pixels around a motion that count as moving


class Smoother:
    """A motion-gated exponential moving average of logits.

    Args:
      strength: Weight of the past where nothing moves, from 0 (none) to below 1.

    Raises:
      ConfigError: The strength is not in that range (`smoothing`).
    """

    def __init__(self, strength: float = 0.8) -> None:
        if not 0 <= strength < 1:
            raise ConfigError(
                f"smoothing: {strength}: expected a number from 0 to below 1, such as 0.8",
                code="smoothing",
            )
        self.strength = strength
        self._image: Float[np.ndarray, "h w"] | None = None
        self._logits: Float[np.ndarray, "h w"] | None = None

    def __call__(
        self, logits: Float[np.ndarray, "h w"], image: RgbImage
    ) -> Float[np.ndarray, "h w"]:
        """Returns the logits of the next frame, averaged with those of the frames before.

        Args:
          logits: The network's logits for the frame.
          image: The frame at the size of the logits, RGB.
        """
        grey = _grey(image)
        if self._image is not None and self._logits is not None:
            past = self.strength * (1 - motion(self._image, grey))
            logits = past * self._logits + (1 - past) * logits
        self._image, self._logits = grey, logits
        return logits

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that the next frame depends on, as arrays by name."""
        if self._image is None or self._logits is None:
            return {}
        return {"image": self._image, "logits": self._logits}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from a `state`.

        Args:
          state: What `state` returned.
        """
        self._image, self._logits = state.get("image"), state.get("logits")


def motion(
    before: Float[np.ndarray, "h w"], after: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Returns how much each pixel moves between two frames: 0 is still, 1 is moving.

    Args:
      before: Grey levels of the frame before.
      after: Grey levels of the frame.
    """
    change = cv2.GaussianBlur(np.abs(after - before), (0, 0), 1.0)
    change = cv2.dilate(change, np.ones((_MARGIN, _MARGIN), np.uint8))
    share: Float[np.ndarray, "h w"] = np.clip((change - _STILL) / (_MOVING - _STILL), 0, 1)
    return share


def flicker(
    before: Bool[np.ndarray, "h w"],
    after: Bool[np.ndarray, "h w"],
    images: tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]],
) -> float:
    """Returns the share of a mask that changes although the image does not.

    It is the number of still pixels whose class differs between two frames, divided by the number
    of still pixels that show a person in either of them; 0 where nobody is still.

    Args:
      before: Mask of a frame.
      after: Mask of the next one.
      images: Both frames.
    """
    still = motion(*map(_grey, images)) == 0
    person = still & (before | after)
    return float((still & (before ^ after)).sum() / person.sum()) if person.any() else 0.0


def _grey(image: RgbImage) -> Float[np.ndarray, "h w"]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
