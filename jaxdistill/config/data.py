"""The section `data`: images, masks, and how they are read."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from jaxdistill.config.base import Section, Size, invalid

MaskResize = Literal["area", "nearest"]
"""How masks are resized, in the words of torch's `interpolate`."""
Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
MaskValues = Literal["white", "alpha"] | tuple[Annotated[int, Field(ge=0, lt=2**16)] | Colour, ...]
"""What a person is in an image file of a mask."""


def _listed(value: Any) -> Any:
    """Takes a single value of masks for a list of one."""
    single = isinstance(value, int) or (isinstance(value, str) and value.startswith("#"))
    # Tuples, as strict validation demands of values that are not read from JSON by itself.
    return (value,) if single else tuple(value) if isinstance(value, list) else value


class Split(Section):
    """Images of one split, and their annotations."""

    images: Path
    """Folder of the images, relative to `data.root`."""
    annotations: Path | None
    """COCO instances file or folder of masks, relative to `data.root`, or the file, folder or
    pattern of annotations that `data.source` reads. null: the images have no masks, and every image
    in the folder and below it is used. The default is null where `data.source` reads images without
    masks."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For `data.validation`: share of the training images that is used for validation instead of
    training. They are drawn by a hash of their names, so that added images move none of the others.
    `data.validation: 10%` is short for it. null: `images` are the split's own."""

    @property
    def labelled(self) -> bool:
        """Whether the images have masks."""
        return self.annotations is not None


class Additional(Section):
    """Additional training images and their masks."""

    images: Path
    """Folder of the images, relative to `data.root`."""
    annotations: Path
    """Folder of their masks, or COCO instances file, relative to `data.root`."""
    mask_values: MaskValues | None = None
    """What a person is in their masks, as `data.mask_values` says it of the others."""

    @field_validator("mask_values", mode="before")
    @classmethod
    def _list_mask_values(cls, value: Any) -> Any:
        return _listed(value)


class Data(Section):
    """Where the images and masks are, and how they are resized and augmented."""

    root: Path | None = None
    """Folder that holds the dataset. Commands that read images need it."""
    source: str | None = None
    """Name of the data source that reads the folder: `coco`, `mask_folder`, `yolo`, `labelme`,
    `supervisely`, `hugging_face`, `image_folder`, `video`, or one of a plug-in. null: found out
    from the folder, unless `train` or `validation` is set: then `coco` for a split whose
    annotations end in `.json`, `mask_folder` for any other, a folder of images for one without."""
    train: Split = Split(
        images=Path("images/train2017"),
        annotations=Path("annotations/instances_train2017_person_only_no_crowd.json"),
    )
    """Training images. Where neither this nor `validation` is set, and there are no folders of the
    default names, the layout of `root` is found out."""
    validation: Split = Split(
        images=Path("images/val2017"),
        annotations=Path("annotations/instances_val2017_person_only_no_crowd.json"),
    )
    """Validation images, evaluated after every epoch; `10%` draws them from the training images.
    Images without masks are compared with the
    teacher's masks."""
    unlabelled: Path | None = None
    """Folder of additional training images without masks, relative to `data.root`. null: none."""
    additional: Additional | None = None
    """Additional training images with masks, such as those of `jaxdistill pseudo-label` or of
    another dataset. null: none."""
    repeat: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many times an epoch shows each image of `data.train`. Those of `data.unlabelled` and
    `data.additional` are shown once. For example 5 for a few images of your own among many."""
    category: str | Annotated[int, Field(ge=-(2**63), lt=2**63)] = "person"
    """Category of the annotations that is a person: its name, in upper or lower case, or its number
    (COCO's id, YOLO's index)."""
    include_crowds: bool = False
    """Whether annotations with `iscrowd: 1` are people, too. COCO marks crowds so, and some
    labelling tools mark every mask that was painted. false: they are background, and counted."""
    mask_values: MaskValues | None = None
    """What a person is in masks that are image files: `white` (brighter than half), `alpha` (the
    opaque part), or one or several values: grey levels, palette indices, or colours such as
    `"#c08080"`. null: found out from the masks; masks of 0 and 1, which look black, are read as
    such, and classes that cannot be told apart are refused."""
    mask_column: str | None = None
    """Column of the masks in a Hugging Face data set. null: the one that is called `mask` or so, or
    that is an image besides the image."""
    frame_step: Annotated[int, Field(ge=1)] = 30
    """Which frames the source `video` takes: the first of each video, and every `frame_step`-th
    after it."""
    prepared: Path = Path(os.path.expanduser("~/.cache/jaxdistill"))  # noqa: PTH111 (never raises)
    """Folder for the datasets that are built from images and annotations; each is built once."""
    image_size: Size = (640, 640)
    """Height and width in pixels to which images and masks are resized: multiples of the student's
    largest stride, which is 32 for an EfficientNet."""
    sizes: tuple[Size, ...] = ()
    """Heights and widths of training images, of which each batch has one, drawn by its step; a
    number alone is both. Validation is at `image_size`, and `targets.cache` cannot be used. []: all
    are at `image_size`."""
    mask_resize: MaskResize = "area"
    """How masks are resized. `area`: a pixel is a person if more than half of its area is one
    (along a side that grows: the nearest centre), so that the mask lies on its image. `nearest`: as
    torch's `interpolate` and OpenCV name it, which moves a mask by up to half an output pixel; the
    reference pipeline does that."""
    augment: Literal["none", "flip", "light", "heavy"] = "light"
    """Augmentation of training images. `flip`: horizontal flips. `light`: also brightness and
    colour changes and occasional blur. `heavy`: also weather, noise and compression."""
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest area of a random crop, as a share of the image in (0, 1]. The crop is resized to
    `image_size`, together with its mask and its teacher outputs, which are computed from the whole
    image. null: no crops."""
    copy_paste: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that the people of another training image are pasted on a training image: scaled,
    flipped and moved, with their mask. Teacher and student see the pasted image, so that
    `targets.cache` cannot be used. 0: nothing is pasted."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Number of threads that decode images. null: 2 on a CPU, where training needs the cores;
    beside a GPU two fewer than there are cores, from 2 to 32."""

    @field_validator("mask_values", mode="before")
    @classmethod
    def _list_mask_values(cls, value: Any) -> Any:
        return _listed(value)

    @field_validator("sizes", mode="before")
    @classmethod
    def _take_sides(cls, value: Any) -> Any:
        """Takes a number for a square."""
        if not isinstance(value, list | tuple):
            return value
        sizes = ([each, each] if isinstance(each, int) else each for each in value)
        return tuple(tuple(each) if isinstance(each, list) else each for each in sizes)

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _complete_split(cls, value: Any, info: ValidationInfo) -> Any:
        """Takes keys that a split does not set from the split's default."""
        if info.field_name == "validation":
            value = _drawn(value, info.data.get("train"))
        if not isinstance(value, dict) or info.field_name is None:
            return value
        return {**cls.model_fields[info.field_name].default.model_dump(mode="json"), **value}

    @field_validator("train")
    @classmethod
    def _refuse_share(cls, value: Split) -> Split:
        if value.share is not None:
            raise invalid(
                "conflicting-keys",
                "a share is drawn for validation, and training takes the rest: set it as "
                "data.validation, such as 10%",
            )
        return value

    @property
    def has_masks(self) -> bool:
        """Whether any training image has a mask."""
        return self.train.labelled or self.additional is not None

    @model_validator(mode="after")
    def _check_copy_paste(self) -> "Data":
        if self.copy_paste and not self.has_masks:
            raise invalid(
                "masks-needed",
                "data.copy_paste needs training images with masks, whose people are pasted: set "
                "data.train.annotations, or data.copy_paste to 0",
            )
        return self


def _drawn(value: Any, train: Split | None) -> Any:
    """Returns a validation split whose folders are those of training, if it is a share of it."""
    if isinstance(value, str):
        if not (percent := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value.strip())):
            raise invalid(
                "wrong-type",
                f"expected images and annotations, or a share of the training images such as 10%, "
                f"got {value!r:.200}",
            )
        value = {"share": float(percent[1]) / 100}
    share = value.get("share") if isinstance(value, dict) else None
    if share is None or train is None:
        return value
    return {**train.model_dump(mode="json"), "share": share}
