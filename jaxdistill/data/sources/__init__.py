"""Data sources: one module for each kind of folder that images and masks are read from.

`SOURCES` holds them by name; the configuration key `data.source` chooses one. A source from outside
the package is registered with `SOURCES.register("name")(SourceClass)`.
"""

from typing import Any

from jaxdistill.data.sources.base import Source, SourceExample
from jaxdistill.data.sources.coco import Coco
from jaxdistill.data.sources.hugging_face import HuggingFace
from jaxdistill.data.sources.image_folder import ImageFolder
from jaxdistill.data.sources.labelme import LabelMe
from jaxdistill.data.sources.mask_folder import MaskFolder
from jaxdistill.data.sources.supervisely import Supervisely
from jaxdistill.data.sources.video import Video
from jaxdistill.data.sources.yolo import Yolo
from jaxdistill.runtime.registry import Registry

__all__ = ["SOURCES", "Source", "SourceExample"]

SOURCES: Registry[type[Source[Any]]] = Registry("data source", "data.source")
"""Classes of data sources by name."""

SOURCES.add(Coco.NAME, Coco)
SOURCES.add(ImageFolder.NAME, ImageFolder)
SOURCES.add(MaskFolder.NAME, MaskFolder)
SOURCES.add(Yolo.NAME, Yolo)
SOURCES.add(LabelMe.NAME, LabelMe)
SOURCES.add(Supervisely.NAME, Supervisely)
SOURCES.add(HuggingFace.NAME, HuggingFace)
SOURCES.add(Video.NAME, Video)
