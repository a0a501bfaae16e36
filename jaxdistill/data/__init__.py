"""Images and masks: data sources, prepared data sets, batches, augmentation.

    data = jaxdistill.data.open("folder", image_size=320)
    for batch in data.train_batches(batch_size=8, seed=0):
        ...

The names below are loaded when they are first used; importing the package is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill.data.data_check import DataCheck, check_data
    from jaxdistill.data.dataset import Dataset, Example
    from jaxdistill.data.description import describe
    from jaxdistill.data.iterable import IterableData, batches
    from jaxdistill.data.sources import SOURCES, Source, SourceExample
    from jaxdistill.data.splits import Data, Options, coco, from_config, image_folder, open

_MODULES = {
    "data_check": ("DataCheck", "check_data"),
    "dataset": ("Dataset", "Example"),
    "description": ("describe",),
    "iterable": ("IterableData", "batches"),
    "sources": ("SOURCES", "Source", "SourceExample"),
    "splits": ("Data", "Options", "coco", "from_config", "image_folder", "open"),
}

__all__ = [
    "SOURCES",
    "Data",
    "DataCheck",
    "Dataset",
    "Example",
    "IterableData",
    "Options",
    "Source",
    "SourceExample",
    "batches",
    "check_data",
    "coco",
    "describe",
    "from_config",
    "image_folder",
    "open",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
