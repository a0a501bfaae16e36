"""Settings of pictures and masks."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from jaxdistill.config.base import Section, Size


class Split(Section):
    images: Path
    """Folder of the pictures, relative to `data.root`."""
    annotations: Path | None
    """COCO instances file, relative to `data.root`; null: pictures without masks, all that lie in
    the folder and below."""

    @property
    def labelled(self) -> bool:
        """Whether the pictures have masks."""
        return self.annotations is not None


class Data(Section):
    root: Path
    """Folder that holds the pictures, in COCO layout unless they have no masks."""
    train: Split = Split(
        images=Path("images/train2017"),
        annotations=Path("annotations/instances_train2017_person_only_no_crowd.json"),
    )
    """The pictures to learn from."""
    validation: Split = Split(
        images=Path("images/val2017"),
        annotations=Path("annotations/instances_val2017_person_only_no_crowd.json"),
    )
    """The pictures to measure on, after every epoch; those without masks against the teacher."""
    unlabelled: Path | None = None
    """Folder of more pictures to learn from, without masks, relative to `data.root`; null: none."""
    prepared: Path = Path(os.path.expanduser("~/.cache/jaxdistill"))  # noqa: PTH111 (never raises)
    """Where the data sets built from folders are kept; each is built once."""
    image_size: Size = (640, 640)
    """Height and width that pictures and masks are resized to; multiples of 32."""
    augment: Literal["none", "flip", "light", "heavy"] = "light"
    """`light`: flip, light, colour, rare blur. `heavy`: also weather, noise, compression, ..."""
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """A random part of each picture, of at least this share of its area, fills `image_size`, and
    its mask and targets with it: the frozen networks see the whole picture. null: no crops."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Threads that decode pictures."""

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _completed(cls, given: Any, info: ValidationInfo) -> Any:
        """Of a split that is given in part, the rest is as usual."""
        if not isinstance(given, dict) or info.field_name is None:
            return given
        return {**cls.model_fields[info.field_name].default.model_dump(mode="json"), **given}

    @model_validator(mode="after")
    def _divisible(self) -> "Data":
        if any(side % 32 for side in self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"height and width must be multiples of 32, the encoder's largest stride; "
                f"got {height} x {width}"
            )
        return self
