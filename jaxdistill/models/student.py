"""The student: encoder, decoder, head, and the projectors that only training needs.

Variables are known by their dotted path, such as `decoder.blocks.0.conv1.conv.kernel`. One rule
over these paths, `student.frozen`, says what is trained; gradients, optimizer state, BatchNorm mode
and checkpoints all follow from it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import weights
from jaxdistill.models.decoders.unet import UnetDecoder
from jaxdistill.models.encoders.efficientnet import EfficientNet, variant
from jaxdistill.models.feature_pairs import Pair
from jaxdistill.models.layers import BatchNorm, Conv
from jaxdistill.models.projector import Projector
from jaxdistill.runtime.errors import UserError
from jaxdistill.types import FeatureScale, ModelOutputs, Variables

Encoded = tuple[Float[Array, "b _ _ _"], ...]
PARAM_GROUPS = ("encoder", "decoder", "head", "projectors")


class Student(nnx.Module):
    """Pictures in [0, 1] to mask logits, and projected features for the pairs it was built with.

    Args:
      settings: architecture and what is frozen.
      normalization: what the encoder expects.
      pairs: the projectors to build; none for inference.
      dtype: what it computes in; the outputs come in it too.
    """

    def __init__(
        self,
        settings: config.Student,
        normalization: image_ops.Normalization,
        pairs: Sequence[Pair] = (),
        *,
        dtype: config.Precision = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        self.normalization, self.dtype = normalization, dtype
        channels = settings.decoder_channels
        self.encoder = EfficientNet(variant(settings.encoder), rngs=rngs)
        self.decoder = UnetDecoder(self.encoder.channels, channels, rngs=rngs)
        self.head = Conv(channels[-1], 1, 3, bias=True, init="xavier_uniform", rngs=rngs)
        self.tap_channels = {
            **{f"encoder.{i}": c for i, c in enumerate(self.encoder.channels, start=1)},
            **{f"decoder.{i}": c for i, c in enumerate(channels)},
        }
        self.pairs = tuple(pairs)
        self.projectors = nnx.List(
            [
                Projector(
                    self.tap_channels[pair.tap],
                    pair.channels,
                    pair.hidden,
                    masked_share=pair.masked_share,
                    standardized=pair.standardized,
                    balanced=pair.balanced,
                    rngs=rngs,
                )
                for pair in pairs
            ]
        )

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        train: bool,
        encoded: Encoded | None = None,
        key: Key[Array, ""] | None = None,
    ) -> ModelOutputs:
        """The mask's logits, and what the pairs' losses need.

        Args:
          encoded: what `encode` gave for these pictures; None computes it.
          key: draws what the pairs mask; None masks nothing.
        """
        taps = self.taps(images, train=train, encoded=encoded)
        projected = tuple(
            self._project(index, taps, train=train, key=key) for index in range(len(self.pairs))
        )
        standards = [projector.standard for projector in self.projectors]
        balance = [p.balance[...] for p in self.projectors if p.balance is not None]
        return ModelOutputs(
            self.head(taps["decoder.4"]),
            projected,
            tuple(FeatureScale(s.mean[...], s.factor[...]) if s else None for s in standards),
            jnp.stack(balance) if balance else None,
        )

    def _project(
        self, index: int, taps: dict[str, Array], *, train: bool, key: Key[Array, ""] | None
    ) -> Float[Array, "b _ _ _"]:
        pair = self.pairs[index]
        tap = taps[pair.tap]
        if pair.size:
            # Before the projector: a tap has fewer channels than what it is projected to.
            tap = image_ops.resize(tap, pair.size, antialias=True)
        own = None if key is None else jax.random.fold_in(key, index)
        return self.projectors[index](tap, train=train, key=own)

    def taps(
        self, images: Float[Array, "b h w 3"], *, train: bool, encoded: Encoded | None = None
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Feature maps by name: `encoder.1` ... `encoder.5`, `decoder.0` ... `decoder.4`.

        Args:
          encoded: what `encode` gave for these pictures; None computes it.
        """
        if encoded is None:
            encoded = self.encode(images, train=train)
        encoded = tuple(tap.astype(getattr(jnp, self.dtype)) for tap in encoded)
        decoded = self.decoder(encoded, train=train)
        return {
            **{f"encoder.{i}": tap for i, tap in enumerate(encoded, start=1)},
            **{f"decoder.{i}": tap for i, tap in enumerate(decoded)},
        }

    def encode(self, images: Float[Array, "b h w 3"], *, train: bool) -> Encoded:
        """The encoder's taps, finest first."""
        normalised = image_ops.normalize(images, self.normalization)
        return self.encoder(normalised.astype(getattr(jnp, self.dtype)), train=train)


def build(
    settings: config.Student,
    pairs: Sequence[Pair] = (),
    *,
    seed: int = 0,
    dtype: config.Precision = "float32",
) -> Student:
    """The student before training: what there is a weights file for from there, the rest random.

    Raises:
      UserError: the weights file cannot be read, or is another network's.
    """
    variant(settings.encoder)  # a misspelt name is the likelier reason why a file does not fit
    path = settings.weights or settings.encoder_weights
    loaded, theirs = weights.load_for(settings.encoder, path) if path else ({}, None)
    normalization = theirs or image_ops.resolve("imagenet")
    if settings.normalization is not None:
        normalization = image_ops.resolve(settings.normalization)
    student = Student(settings, normalization, pairs, dtype=dtype, rngs=nnx.Rngs(seed))
    if path is None:
        return student
    groups = ("encoder", "decoder", "head") if settings.weights else ("encoder",)
    own = flat_variables(student)
    wanted = {name: np.asarray(own[name]) for name in own if param_group(name) in groups}
    given = {name: loaded[name] for name in loaded if param_group(name) in groups}
    filled = {name: jnp.asarray(v) for name, v in weights.fill(wanted, given, path).items()}
    return merge(nnx.graphdef(student), {**own, **filled})


def is_frozen(path: str, frozen: Sequence[str]) -> bool:
    """The one rule: a frozen path stands for itself and everything below it."""
    return any(path == prefix or path.startswith(prefix + ".") for prefix in frozen)


def param_group(path: str) -> str:
    """The parameter group: `encoder`, `decoder`, `head` or `projectors`."""
    return path.partition(".")[0]


class Split(NamedTuple):
    """A student taken apart: the program, and its variables by what training does to them."""

    graph: nnx.GraphDef
    params: Variables  # trained
    batch_stats: Variables  # BatchNorm's, measured while training
    frozen: Variables  # neither

    def student(self) -> Student:
        return merge(self.graph, {**self.params, **self.batch_stats, **self.frozen})

    def with_values(self, values: Variables) -> "Split":
        """The same, but for these variables."""
        parts = ({k: values.get(k, v) for k, v in part.items()} for part in self[1:])
        return Split(self.graph, *parts)


def freeze(student: Student, frozen: Sequence[str], fixed: Sequence[str] = ()) -> Split:
    """Marks what the rule freezes and takes the student apart.

    Args:
      frozen: paths of what is not trained.
      fixed: paths of what is trained, but whose BatchNorms keep their statistics.

    Raises:
      UserError: names an entry of the rule that no parameter matches.
    """
    for path, module in nnx.iter_modules(student):
        if isinstance(module, BatchNorm):
            module.frozen = is_frozen(_dotted(path), [*frozen, *fixed])
    graph, state = nnx.split(student)
    split = Split(graph, {}, {}, {})
    for path, variable in nnx.to_flat_state(state):
        name = _dotted(path)
        measured = isinstance(variable, nnx.BatchStat)
        if is_frozen(name, frozen) or (measured and is_frozen(name, fixed)):
            split.frozen[name] = variable[...]
        elif measured:
            split.batch_stats[name] = variable[...]
        else:
            split.params[name] = variable[...]
    for prefix in frozen:
        if not any(is_frozen(name, [prefix]) for name in split.frozen):
            raise UserError(
                f"student.frozen: {prefix!r} matches no parameter; "
                f"the groups are {', '.join(PARAM_GROUPS)}"
            )
    if not split.params:
        raise UserError("student.frozen: everything is frozen, nothing is left to train")
    return split


def merge(graph: nnx.GraphDef, variables: Variables) -> Student:
    """The student whose variables, by dotted path, these are."""
    leaves = [(_parts(name), value) for name, value in variables.items()]
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def flat_variables(module: nnx.Module) -> Variables:
    """All parameters and statistics of a module by dotted path."""
    return {_dotted(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module))}


def _dotted(path: Iterable[object]) -> str:
    return ".".join(map(str, path))


def _parts(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))
