"""Decoders. Each module registers its own; a new one needs a line here."""

from jaxdistill.models.decoders import gated as gated
from jaxdistill.models.decoders import unet as unet
