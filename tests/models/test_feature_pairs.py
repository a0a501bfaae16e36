"""Feature pairs: which tap fits which tensor, and what is built for a pair."""

import jax
import numpy as np
from flax import nnx
from refused import refused
from small_student import small_student

from jaxdistill import config
from jaxdistill.data import image_ops
from jaxdistill.models import Pair
from jaxdistill.models.feature_pairs import describe_sizes, pair_up
from jaxdistill.runtime.errors import ConfigError

FEATURES = small_student().feature_info


def test_a_tensor_of_another_size_is_refused_with_the_taps_that_fit() -> None:
    feature = config.Feature(tensor="inner", tap="encoder.3")
    with refused(ConfigError, "feature-size", "encoder.4, decoder.0") as caught:
        pair_up([feature], [(20, 20, 64)], (320, 320), FEATURES)
    for part in ("20 x 20", "40 x 40", "features.0.resize: true"):
        assert part in str(caught.value)
    assert pair_up([feature], [(40, 40, 64)], (320, 320), FEATURES) == [Pair("encoder.3", 64, 768)]


def test_an_unknown_tap_is_refused_with_the_taps_there_are() -> None:
    feature = config.Feature(tensor="inner", tap="decoder.5")
    with refused(ConfigError, "unknown-tap", "decoder.4"):
        pair_up([feature], [(20, 20, 64)], (320, 320), FEATURES)


def test_taps_are_resized_to_the_tensors_where_that_is_wanted() -> None:
    """Several pairs at several strides, up and down; one has the size already."""
    taps = ["decoder.3", "encoder.5", "encoder.3"]
    features = [
        config.Feature(tensor="t", tap=tap, hidden_channels=None, resize=True) for tap in taps
    ]
    pairs = pair_up(features, [(8, 12, 5)] * 3, (64, 96), FEATURES)
    assert [pair.size for pair in pairs] == [(8, 12), (8, 12), None]
    assert describe_sizes(pairs, (64, 96), FEATURES) == [
        "features.0: decoder.3 is resized from 32 x 48 to 8 x 12",
        "features.1: encoder.5 is resized from 2 x 3 to 8 x 12",
    ]
    student = small_student(pairs)
    images = jax.random.uniform(jax.random.key(0), (1, 64, 96, 3))
    outputs, taps = nnx.jit(
        lambda student, x: (student(x, train=False), student.taps(x, train=False))
    )(student, images)
    assert [projected.shape for projected in outputs.projected] == [(1, 8, 12, 5)] * 3
    # A 1x1 convolution and an interpolation may be exchanged.
    projected = student.projectors[0](taps["decoder.3"], train=False)
    expected = image_ops.resize(projected, (8, 12), antialias=True)
    np.testing.assert_allclose(outputs.projected[0], expected, rtol=1e-4, atol=1e-5)
