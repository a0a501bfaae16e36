"""The sections `teacher`, `detector` and `targets`: frozen networks and their cached outputs."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from jaxdistill.config.base import (
    Channel,
    ChannelOrder,
    Layout,
    Normalization,
    OutputKind,
    Positive,
    Section,
    Size,
)


class FrozenNetwork(Section):
    """An ONNX file, and how its input is prepared."""

    onnx: Path
    """ONNX file with one image input, of shape (N, 3, H, W) or (N, H, W, 3), of float32, float16 or
    uint8."""
    normalization: Normalization = "imagenet"
    """Normalisation of the network's input: `unit` expects pixels in [0, 1], `half` in [-1, 1],
    `bytes` in [0, 255], which an input of uint8 needs; `imagenet` ImageNet's mean and std. The
    network gets (scale * pixels - mean) / std, for pixels in [0, 1]."""
    size: Size | None = None
    """Height and width of the network's input in pixels. null: the file's own size if it is fixed,
    else `data.image_size`."""
    channel_order: ChannelOrder = "rgb"
    """Order of the input's channels. Mean and std are always those of red, green and blue."""
    layout: Layout | None = None
    """Order of the input's axes. null: as the file's shape has them, `nchw` where it leaves all of
    them free."""

    @property
    def description(self) -> dict[str, Any]:
        """The keys that describe input and mask: keyword arguments of `teachers.Onnx`."""
        others = ("onnx", "weight")
        return {name: getattr(self, name) for name in type(self).model_fields if name not in others}


class Teacher(FrozenNetwork):
    """The segmentation network whose masks the student imitates."""

    tensor: str | None = None
    """Name of the mask tensor, an output or an inner tensor. null: the first output."""
    output: OutputKind = "logits"
    """What the mask tensor holds: logits or probabilities of each class, logits of which a softmax
    makes probabilities, or the index of the class of each pixel."""
    channel: Channel | tuple[Channel, ...] | None = None
    """The class of people in the mask tensor, counted from 0, or a list of classes that are people
    together. null: the mask has one channel."""
    output_layout: Layout | None = None
    """Order of the mask tensor's axes. null: as its shape suggests."""
    weight: Positive = 1.0
    """The weight of its probabilities in the mean of several teachers."""


def _tag(value: Any) -> str:
    return "tag-list" if isinstance(value, list | tuple) else "tag-one"


# `messages` leaves the tags out of the path of a key.
Teachers = Annotated[
    Annotated[Teacher, Tag("tag-one")] | Annotated[tuple[Teacher, ...], Tag("tag-list")],
    Discriminator(_tag),
]
"""One teacher, or a list of teachers."""


class Detector(FrozenNetwork):
    """The network whose inner tensors the student's feature maps imitate."""

    normalization: Normalization = "unit"
    """Normalisation of the network's input, for pixels in [0, 1]."""


class Onnxruntime(Section):
    """How onnxruntime computes the frozen networks on a GPU; a CPU ignores most of these keys."""

    precision: Literal["auto", "float32", "float16"] = "auto"
    """`float16`: compute with copies of the networks in float16, made once in
    `~/.cache/jaxdistill/float16`; a copy that differs from float32 by more than 2 % is an error.
    `auto`: float16 on a GPU where `precision` is `bfloat16` and the copy differs by at most 2 %."""
    cudnn_conv_algo_search: Literal["exhaustive", "heuristic", "default"] = "exhaustive"
    """How a GPU's algorithm for each convolution is chosen, once for each input size: by trying all
    of them, by a rule, or always the same one."""
    prefer_nhwc: bool = False
    """Whether onnxruntime computes with channels last on a GPU."""
    arena_extend_strategy: Literal["same_as_requested", "next_power_of_two"] = "same_as_requested"
    """By how much onnxruntime's GPU memory grows: by what is asked for, which leaves more to JAX,
    or to the next power of two."""
    use_tf32: bool | None = None
    """Whether onnxruntime may round the factors of convolutions to TF32 on a GPU. null: as JAX,
    yes unless the environment sets JAX_DEFAULT_MATMUL_PRECISION to `highest` or `float32`."""


class Targets(Section):
    """How the outputs of the frozen networks are cached."""

    cache: Path | None = None
    """Folder of the target cache: outputs of teacher, detector and frozen encoder are computed once
    for each image and read in later epochs. null: no cache."""
    clean_images: bool = False
    """Whether teacher and detector see images before photometric augmentation. Their outputs can
    then be cached under `data.augment` `light` and `heavy` as well."""
