"""Encoders. Each module registers its own; a new one needs a line here."""

from jaxdistill.models.encoders import efficientnet as efficientnet
from jaxdistill.models.encoders import mediapipe_selfie as mediapipe_selfie
from jaxdistill.models.encoders import mobilenet as mobilenet
