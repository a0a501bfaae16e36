"""The part of a source's images that a validation split is drawn from, and the rest."""

import hashlib
import unicodedata
from typing import NamedTuple


class Part(NamedTuple):
    """A share of the images, chosen by a hash of their names, or the images that are left.

    An image is in one of the two whatever other images there are, so that adding images moves none
    of the former ones.
    """

    share: float
    """The expected share of the images that is drawn, between 0 and 1."""
    drawn: bool
    """Whether this is the part that is drawn, or the rest."""

    def holds(self, name: str) -> bool:
        """Returns whether an image is in this part.

        Args:
          name: Path of the image, relative to the folder of the images.
        """
        text = unicodedata.normalize("NFC", name.replace("\\", "/"))
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
        return (int.from_bytes(digest[:8], "big") < self.share * 2**64) == self.drawn
