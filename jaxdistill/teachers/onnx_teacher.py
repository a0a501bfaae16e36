"""`Onnx`: a teacher that runs one ONNX file."""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Array, Float, UInt8

from jaxdistill import config
from jaxdistill.config import ChannelOrder, Layout, Normalization, OutputKind, Size
from jaxdistill.data import image_ops
from jaxdistill.runtime.errors import ConfigError, NetworkError
from jaxdistill.teachers.base import OutputShapes
from jaxdistill.teachers.network_format import MaskOutput, PixelFormat, prepare, to_logits
from jaxdistill.teachers.onnx_graph import OnnxGraph
from jaxdistill.teachers.onnx_session import OnnxSession
from jaxdistill.teachers.target_cache import CachedTeacher
from jaxdistill.types import TeacherOutputs

CONVERSION_VERSION = 1
"""Part of the provenance. Increase it when `prepare` or `to_logits` compute other values, so that
nothing cached before is used. The margin is a part by itself."""


class Onnx:
    """A teacher that runs one ONNX file: a mask, inner feature maps, or both.

    The file is read at once, and opened in onnxruntime when it is first needed.

    Args:
      path: The ONNX file, or an `OnnxGraph` that was read before. It has one image input,
        (N, 3, H, W) or (N, H, W, 3), of float32, float16 or uint8.
      tensor: The mask tensor, an output or an inner tensor, (N, C, h, w), (N, h, w, C) or
        (N, h, w); None is the first output.
      output: What the mask tensor holds, `logits`, `probabilities`, `softmax_logits` or
        `class_indices`; None for a network that is read for its features only.
      channel: The class of people in the mask tensor, or several classes that are people together
        (see `network_format.to_logits`); None for a mask of one channel.
      output_layout: The mask's axes; None finds them from its shape.
      normalization: What the network expects of pixels in [0, 1]: `imagenet`, `unit`, `half`,
        `bytes`, or a `config.MeanStd`. An input of uint8 needs `bytes`.
      channel_order: Order of the input's channels, `rgb` or `bgr`.
      layout: The input's axes, `nchw` or `nhwc`; None finds them from the file's shape.
      size: Height and width of the network's input; None uses the file's own where it is fixed,
        else the size of the images.
      features: Tensors (N, C, h, w), outputs or inner ones, one per feature pair.
      threads: Upper bound of onnxruntime's threads on the CPU; None uses every core.
      options: How a GPU computes the network; None takes the defaults.

    Raises:
      ConfigError: Neither a mask nor features are asked for (`teacher-without-outputs`).
      NetworkError: The file cannot be read, or has no such tensor; see `OnnxGraph`.
    """

    def __init__(
        self,
        path: Path | str | OnnxGraph,
        *,
        tensor: str | None = None,
        output: OutputKind | None = "logits",
        channel: int | Sequence[int] | None = None,
        output_layout: Layout | None = None,
        normalization: Normalization = "imagenet",
        channel_order: ChannelOrder = "rgb",
        layout: Layout | None = None,
        size: Size | None = None,
        features: Sequence[str] = (),
        threads: int | None = None,
        options: config.Onnxruntime | None = None,
    ) -> None:
        graph = path if isinstance(path, OnnxGraph) else OnnxGraph(Path(path))
        graph = graph.with_layout(layout) if layout else graph
        if output is None and not features:
            raise ConfigError(
                f"{graph.path}: nothing to compute; name features, or say with output whether the "
                f"mask holds logits or probabilities",
                code="teacher-without-outputs",
            )
        self.graph, self.normalization, self.channel_order = graph, normalization, channel_order
        self.size = None if size is None else (size[0], size[1])
        self.threads = threads
        self.options = options or config.Onnxruntime(precision="float32")
        channels = (channel,) if isinstance(channel, int) else channel
        self.mask: MaskOutput | None = None
        """The mask tensor; None where there is no mask."""
        if output is not None:
            chosen = None if channels is None else tuple(channels)
            self.mask = MaskOutput(tensor or graph.outputs[0], output, chosen, output_layout)
        self.features = tuple(features)
        """The feature tensors."""
        tensors = [*([self.mask.tensor] if self.mask else []), *self.features]
        for name in tensors:
            graph.check_tensor(name)
        # Shared with what `restrict` returns: the file is opened once.
        self._open = functools.cache(
            functools.partial(
                _open,
                self.pixels,
                graph,
                list(dict.fromkeys(tensors)),
                self.size,
                threads,
                self.options,
                self.mask,
            )
        )

    @property
    def pixels(self) -> PixelFormat:
        """What the network expects of the values of pixels."""
        return PixelFormat.of(self.normalization, self.channel_order)

    def __call__(self, images: Float[Array, "b h w 3"]) -> TeacherOutputs:
        """Runs the network on images in [0, 1]; see `Teacher`."""
        _, height, width, _ = images.shape
        self.output_shapes((height, width))
        session = self._open()
        inputs = prepare(images, self.pixels, session.input_size((height, width)))
        maps = dict(zip(session.tensors, session(inputs), strict=True))
        logits = None
        if self.mask is not None:
            logits = to_logits(maps[self.mask.tensor], self.mask, (height, width))
        return TeacherOutputs(logits, tuple(maps[tensor] for tensor in self.features))

    def set_batch_size(self, batch_size: int) -> None:
        """Says how many images a GPU is to compute at once; see `OnnxSession.set_batch_size`.

        Args:
          batch_size: Number of images on each device.
        """
        self._open().set_batch_size(batch_size)

    def input_size(self, image_size: Size) -> Size:
        """Returns the height and width at which the network computes.

        Args:
          image_size: Those of the images.
        """
        return self._open().input_size(image_size)

    def output_shapes(self, image_size: Size) -> OutputShapes:
        """Returns the shapes of the outputs for images of a size.

        Raises:
          NetworkError: onnxruntime cannot open or run the file, or the mask has more than one
            channel (`teacher-channels`).
        """
        session = self._open()
        shapes = session.shapes(session.input_size(image_size))
        known = dict(zip(session.tensors, shapes, strict=True))
        if self.mask is not None:
            self.mask.check(known[self.mask.tensor][2], self.graph.path)
        return OutputShapes(
            None if self.mask is None else (*image_size, 1),
            tuple(known[tensor] for tensor in self.features),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """All that `logits` and `features` depend on, each under its name.

        What is as in most files is left out, so that the caches of earlier versions stay valid.
        """
        session = self._open()
        common: dict[str, Any] = {
            "file": self.graph.fingerprint,
            "normalization": {
                name: list(values) for name, values in self.pixels.normalization._asdict().items()
            },
            "size": None if self.size is None else list(self.size),
            "provider": session.provider,
            "precision": session.precision,
            "onnxruntime": onnxruntime.__version__,
            "conversion": CONVERSION_VERSION,
        }
        if self.channel_order != "rgb":
            common["channel_order"] = self.channel_order
        if session.image.layout != "nchw":
            common["layout"] = session.image.layout
        parts: dict[str, Any] = {}
        if self.mask is not None:
            mask = self.mask
            parts["logits"] = {
                **common,
                "tensor": mask.tensor,
                "output": mask.kind,
                "margin": mask.margin,
                **({"channels": list(mask.channels)} if mask.channels else {}),
                **({"output_layout": mask.layout} if mask.layout else {}),
            }
        if self.features:
            parts["features"] = {**common, "tensors": list(self.features)}
        return parts

    def restrict(self, *, logits: bool = True, features: bool = True) -> "Onnx | None":
        """Returns this teacher with fewer outputs; None where no output is left.

        Args:
          logits: Whether the mask is needed.
          features: Whether the feature maps are needed.
        """
        fewer = copy.copy(self)
        if not logits:
            fewer.mask = None
        if not features:
            fewer.features = ()
        return fewer if fewer.mask is not None or fewer.features else None

    def with_features(self, features: Sequence[str]) -> "Onnx":
        """Returns a teacher that computes feature maps too, in the same run of the network.

        Args:
          features: The feature tensors.
        """
        mask = self.mask
        return Onnx(
            self.graph,
            tensor=mask and mask.tensor,
            output=mask and mask.kind,
            channel=mask and mask.channels,
            output_layout=mask and mask.layout,
            normalization=self.normalization,
            channel_order=self.channel_order,
            size=self.size,
            features=features,
            threads=self.threads,
            options=self.options,
        )

    def stored_mask(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b _ _ c"]:
        """Returns the mask tensor as the network gives it, for images on the host.

        No program is compiled for it.

        Args:
          images: RGB.
        """
        assert self.mask is not None
        session = self._open()
        size = session.input_size(images.shape[1:3])
        resized = np.stack([image_ops.resize_image(image, size) for image in images])
        inputs = self.pixels.apply(resized.astype(np.float32) / 255)
        return session.on_host(inputs)[self.mask.tensor]

    def cached(self, directory: Path | str) -> CachedTeacher:
        """Returns this teacher with its outputs kept in a cache directory; see `CachedTeacher`.

        A trainer then lets it see images before photometric augmentation.

        Args:
          directory: The folder, which is made if it is missing.
        """
        return CachedTeacher(self, directory)

    def describe(self) -> list[str]:
        """Returns a line for the mask and one for the features.

        They have what was set and what was found in the file: tensors, their sizes and layouts, the
        input and its number format, the provider.
        """
        session = self._open()
        size, shapes = next(iter(session.known_shapes.items()), (self.size, ()))
        layouts = session.layouts[size] if size and shapes else ()
        known = dict(zip(session.tensors, zip(shapes, layouts, strict=True), strict=False))

        def show(tensor: str) -> str:
            if tensor not in known:
                return tensor
            shape, layout = known[tensor]
            return f"{tensor} ({' x '.join(map(str, shape))}) in {layout.upper()}"

        image = session.image
        if isinstance(set_ := self.normalization, config.MeanStd):
            values = f"mean {list(set_.mean)}, std {list(set_.std)}, scale {set_.scale:g}"
        else:
            values = set_
        end = (
            f"from {image.dtype} {image.layout.upper()} {self.channel_order.upper()} images of "
            f"{f'{size[0]} x {size[1]}' if size else 'any size'} ({values})"
            f"{f' in batches of {image.batch}' if image.batch else ''}, on {session.provider}"
        )
        if session.float16_error is not None:
            end += f", in float16 ({session.float16_error:.2g} from float32)"
        lines = []
        if mask := self.mask:
            which = f", channel {', '.join(map(str, mask.channels))}" if mask.channels else ""
            held = f"{show(mask.tensor)} as {mask.kind}{which}"
            lines.append(f"teacher: {self.graph.path}, {held}, {end}")
        if self.features:
            lines.append(
                f"detector: {self.graph.path}, {', '.join(map(show, self.features))}, {end}"
            )
        return lines

    def has_same_input_as(self, other: "Onnx") -> bool:
        """Returns whether another teacher runs the same file on the same input."""
        own, others = (
            (
                each.graph.path.resolve(),
                each.graph.layout,
                each.pixels,
                each.size,
                each.threads,
                each.options,
            )
            for each in (self, other)
        )
        return own == others


def _open(pixels: PixelFormat, *arguments: Any) -> OnnxSession:
    session = OnnxSession(*arguments)
    if session.image.dtype == "uint8" and not pixels.is_bytes:
        raise NetworkError(
            f"{session.path}: the input is uint8 and takes pixels as they are decoded; set "
            f"normalization to bytes",
            code="input-normalization",
        )
    return session
