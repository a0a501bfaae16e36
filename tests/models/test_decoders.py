"""Decoders on every encoder: default channels, maps, refusals; one from outside the package."""

from functools import cache

import jax.numpy as jnp
import pytest
from documents import ROOT, blocks
from flax import nnx
from refused import refused

from jaxdistill.models import DECODERS, ENCODERS, FeatureInfo
from jaxdistill.models.registry import build_decoder, build_encoder
from jaxdistill.models.seeds import make_rngs
from jaxdistill.runtime.errors import ConfigError


def shipped(registry) -> dict[str, type]:
    """The classes that the package registers by name, without those of other tests."""
    classes = {name: getattr(registry[name], "func", registry[name]) for name in registry}
    return {n: c for n, c in classes.items() if c.__module__.startswith("jaxdistill.")}


every_decoder = pytest.mark.parametrize("decoder", shipped(DECODERS))


@cache
def maps_of_encoders() -> dict[str, tuple[FeatureInfo, ...]]:
    """The feature maps of one encoder of each class, at every depth that is allowed.

    Variants of a class differ in channels only, as far as decoders are concerned.
    """
    maps = {}
    for name in {entry: name for name, entry in shipped(ENCODERS).items()}.values():
        whole = build_encoder(name, rngs=make_rngs(0)).feature_info
        maps |= {f"{name}, depth {d}": whole[:d] for d in range(1, len(whole) + 1)}
    return maps


def decoder_maps(decoder: str, encoder, channels=None) -> tuple[FeatureInfo, ...]:
    return build_decoder(decoder, encoder, channels, rngs=make_rngs(0)).feature_info


def encoder_maps(channels: list[int]) -> tuple[FeatureInfo, ...]:
    return tuple(FeatureInfo(f"encoder.{i + 1}", c, 2 << i) for i, c in enumerate(channels))


def check_maps(maps: tuple[FeatureInfo, ...], encoder: tuple[FeatureInfo, ...]) -> None:
    assert 1 <= len(maps) <= len(encoder)
    assert maps[0].stride in (encoder[-1].stride, encoder[-1].stride // 2)
    assert [m.stride for m in maps] == [maps[0].stride >> i for i in range(len(maps))]


@every_decoder
def test_default_channels_fit_every_encoder_of_every_depth(decoder: str) -> None:
    for name, encoder in maps_of_encoders().items():
        try:
            check_maps(decoder_maps(decoder, encoder), encoder)
        except ConfigError as error:
            pytest.fail(f"{name}: {error}")


@every_decoder
@pytest.mark.parametrize("number", range(1, 8))
def test_default_channels_fit_any_number_of_maps(decoder: str, number: int) -> None:
    encoder = encoder_maps([8] * number)
    check_maps(decoder_maps(decoder, encoder), encoder)


@every_decoder
def test_fewer_channels_end_a_decoder_earlier(decoder: str) -> None:
    encoder = encoder_maps([16, 24, 40])
    whole, early = (decoder_maps(decoder, encoder, (12, 10, 8)[:n]) for n in (3, 2))
    assert early == whole[:2]
    assert [m.channels for m in whole] == [12, 10, 8]


@every_decoder
def test_a_decoder_refuses_what_does_not_fit(decoder: str) -> None:
    with refused(ConfigError, "decoder-channels", "at most 2"):
        decoder_maps(decoder, encoder_maps([8, 8]), (8, 8, 8))
    gap = (FeatureInfo("encoder.1", 8, 2), FeatureInfo("encoder.2", 8, 8))
    with refused(ConfigError, "decoder-encoder", "strides 2, 8"):
        decoder_maps(decoder, gap)


def test_an_encoder_without_stride_2_is_not_for_a_unet() -> None:
    with refused(ConfigError, "decoder-encoder", "stride 4"):
        decoder_maps("unet", encoder_maps([8, 8, 8])[1:])


def test_the_decoder_of_the_documentation_computes_what_it_describes() -> None:
    [source] = [b for b in blocks(ROOT / "docs/extending.md", "python") if "SkipDecoder" in b]
    exec(source, {"__name__": "documented"})
    encoder = encoder_maps([8, 12, 16])
    decoder = build_decoder("sum", encoder, rngs=make_rngs(0))
    features = [jnp.zeros((1, *f.size((32, 64)), f.channels)) for f in encoder]
    maps = nnx.eval_shape(lambda d, x: d(x, train=True), decoder, features)
    assert [m.shape for m in maps] == [
        (1, *f.size((32, 64)), f.channels) for f in decoder.feature_info
    ]
