import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_models import parse, save, segmenter

from jaxdistill.analysis.feature_maps import feature_maps
from jaxdistill.runtime.errors import NetworkError
from jaxdistill.teachers.onnx_graph import OnnxGraph


def found(model, folder, size=None, image_size=(8, 12)):
    return {m.tensor: m for m in feature_maps(OnnxGraph(save(model, folder)), size, image_size)}


@pytest.mark.parametrize("batch", ["N", 1, 3])
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_maps_have_the_sizes_that_they_have_when_run(tmp_path, batch, dtype):
    sizes = {
        name: (m.operator, m.height, m.width, m.channels)
        for name, m in found(segmenter(batch, dtype=dtype), tmp_path).items()
    }
    assert sizes == {
        "low": ("Conv", 4, 6, 4),
        "inner": ("Relu", 4, 6, 4),
        "deep": ("Conv", 2, 3, 6),
        "score": ("Conv", 4, 6, 1),
        "mask": ("Sigmoid", 4, 6, 1),
    }


def test_sizes_follow_the_input(tmp_path):
    asked = found(segmenter(), tmp_path, size=(16, 32))
    assert (asked["inner"].height, asked["inner"].width) == (8, 16)
    fixed = found(segmenter(1, 20, 24), tmp_path)
    assert (fixed["inner"].height, fixed["inner"].width) == (10, 12)


def test_costs_are_shares_of_all_multiplications(tmp_path):
    """By hand: 27 per value of `low`, 4 per value of `deep` and of `score`."""
    low, deep, score = 27 * 4 * 4 * 6, 4 * 6 * 2 * 3, 4 * 4 * 6
    total = low + deep + score
    shares = {name: m.cost for name, m in found(segmenter(), tmp_path).items()}
    assert shares == pytest.approx(
        {
            "low": low / total,
            "inner": low / total,
            "deep": (low + deep) / total,
            "score": (low + score) / total,
            "mask": (low + score) / total,
        }
    )


def test_products_and_transposed_convolutions_cost_too(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image) => (float[N, 5, h, w] up, float[N, 3, H, w] wide)
        { same = Abs (image)
          up = ConvTranspose <strides = [2, 2]> (same, kernel)
          wide = MatMul (same, matrix) }""")
    for name, shape in {"kernel": (3, 5, 2, 2), "matrix": (12, 7)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, "f4"), name))
    shares = {name: m.cost for name, m in found(model, tmp_path).items()}
    up, wide = 3 * 8 * 12 * 5 * 4, 3 * 8 * 7 * 12
    assert shares["up"] == pytest.approx(up / (up + wide))
    assert shares["wide"] == pytest.approx(wide / (up + wide))


def internal(body, folder, outputs="float[N, 3, H, W] out", **sizes):
    model = parse(f"net (float[N, 3, H, W] image) => ({outputs}) {{ {body} }}")
    return {name: m.internal for name, m in found(model, folder, **sizes).items()}


CONV = "c = MaxPool <kernel_shape = [2, 2]> (image)"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (f"{CONV} out = Relu (c)", {"c": True, "out": False}),
        (  # the sigmoid is a gate
            f"{CONV} s = Sigmoid (c) p = Mul (c, s) out = MaxPool <kernel_shape = [2, 2]> (p)",
            {"c": True, "s": True, "p": False, "out": False},
        ),
        (  # c is read by others too
            f"{CONV} r = Relu (c) out = Concat <axis = 1> (c, r)",
            {"c": False, "r": False, "out": False},
        ),
        (  # a sum of two is neither
            f"{CONV} d = AveragePool <kernel_shape = [2, 2]> (image) out = Add (c, d)",
            {"c": False, "d": False, "out": False},
        ),
        (  # a copy stands for nothing, its reader reads the original
            f"{CONV} i = Identity (c) out = Relu (i)",
            {"c": True, "out": False},
        ),
        (f"{CONV} r = Relu (c) out = Identity (r)", {"c": True, "r": False}),
    ],
)
def test_what_only_an_activation_reads_is_internal(tmp_path, body, wanted):
    assert internal(body, tmp_path) == wanted


def test_an_output_is_not_internal(tmp_path):
    outputs = "float[N, 3, H, W] c, float[N, 3, H, W] out"
    assert internal(f"{CONV} out = Relu (c)", tmp_path, outputs) == {"c": False, "out": False}


def test_no_map_is_what_is_of_another_shape_or_type_or_of_no_picture(tmp_path):
    model = parse("""
        net (float[N, 3, H, W] image, float[1, 1, 8, 12] other)
            => (float[N, 3, H, W] sum, float[N, k] flat, int64[N, 1, H, W] best)
        { constant = Constant <value = float[1, 1, 1, 1] {2}> ()
          soft = Abs (image)
          best = ArgMax <axis = 1> (soft)
          sides = Shape (soft)
          flat = Flatten (soft)
          sum = Add (soft, other)
          twice = Mul (constant, constant) }""")
    assert list(found(model, tmp_path)) == ["soft"]


def test_a_network_without_a_picture_is_refused(tmp_path):
    model = parse("net (float[N, 4] numbers) => (float[N, 4] out) { out = Relu (numbers) }")
    with pytest.raises(NetworkError) as caught:
        found(model, tmp_path)
    assert caught.value.code == "onnx-input"


def test_weights_beside_the_file_are_found(tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(segmenter(), path, save_as_external_data=True, location="w", size_threshold=0)
    assert len(feature_maps(OnnxGraph(path), None, (8, 12))) == 5


def test_in_a_real_network_activations_stand_for_convolutions(shared):
    found = feature_maps(OnnxGraph(shared("models", "u2netp.onnx")), None, (640, 640))
    by_name = {m.tensor: m for m in found}
    assert len(by_name) == len(found)
    assert {m.operator for m in found if m.internal} == {"Conv"}
    assert sum(m.operator == "Relu" for m in found if not m.internal) == 112
    stage = by_name["1429"]
    assert (stage.operator, stage.height, stage.width, stage.channels) == ("Add", 40, 40, 64)
    assert 0.28 < stage.cost < 0.30
    assert by_name["1959"].cost == 1
