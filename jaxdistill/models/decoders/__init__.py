"""Decoders. Each module registers its own; a new one needs a line here."""

from jaxdistill.models.decoders import gated as gated
from jaxdistill.models.decoders import light_unet as light_unet
from jaxdistill.models.decoders import lr_aspp as lr_aspp
from jaxdistill.models.decoders import unet as unet
