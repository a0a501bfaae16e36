"""The Python API of prediction: `load`, `Predictor.predict`, `evaluate`."""

from pathlib import Path

import numpy as np
import onnx_models
import pytest
import tiny_run
from onnx_variants import variants

from jaxdistill import config, evaluation
from jaxdistill.commands import common
from jaxdistill.commands.model_options import add_model_options, model_options
from jaxdistill.evaluation import masks
from jaxdistill.runtime.errors import ConfigError, DataError, NetworkError, UserError
from jaxdistill.types import Batch, TeacherOutputs

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> evaluation.Predictor:
    """A network whose logit is 10 times the brightness, minus 5."""
    path = tiny_run.network(tmp_path_factory.mktemp("network") / "bright.onnx")
    return evaluation.load(path, output="logits", normalization="unit", size=(HEIGHT, WIDTH))


def bright_left(height: int = 50, width: int = 80) -> np.ndarray:
    image = np.full((height, width, 3), 20, np.uint8)
    image[:, : width // 2] = 240
    return image


def test_one_image_has_one_mask_of_its_own_size(predictor: evaluation.Predictor) -> None:
    mask = predictor.predict(bright_left())
    assert mask.dtype == bool
    assert mask.shape == (50, 80)
    assert mask[:, :38].all()
    assert not mask[:, 42:].any()


def test_a_list_of_images_has_a_list_of_masks(predictor: evaluation.Predictor) -> None:
    images = [bright_left(20 + number, 60) for number in range(5)]
    for batch_size in (1, 3, 8):
        found = predictor.predict(images, batch_size=batch_size)
        assert [mask.shape for mask in found] == [(20 + number, 60) for number in range(5)]
        for image, mask in zip(images, found, strict=True):
            assert np.array_equal(mask, predictor.predict(image))
    assert predictor.predict([]) == []


def test_soft_masks_are_probabilities(predictor: evaluation.Predictor) -> None:
    image = np.full((30, 40, 3), 153, np.uint8)  # brightness 0.6, so logit 1
    soft = predictor.predict(image, soft=True)
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(-1)), atol=1e-5)
    assert predictor.predict(image, threshold=0.72).all()
    assert not predictor.predict(image, threshold=0.74).any()


def test_a_predictor_describes_its_model(predictor: evaluation.Predictor) -> None:
    assert predictor.size == (HEIGHT, WIDTH)
    assert len(predictor.fingerprint) == 64
    assert "bright.onnx" in predictor.description
    images = np.stack([bright_left(HEIGHT, WIDTH)] * 2)
    assert predictor.logits(images).shape == (2, HEIGHT, WIDTH, 1)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        "image.png",
    ],
)
def test_only_rgb_images_of_bytes_are_accepted(
    predictor: evaluation.Predictor, image: object
) -> None:
    with pytest.raises(DataError) as caught:
        predictor.predict([image])
    assert caught.value.code == "not-an-rgb-image"


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_threshold_is_a_probability(predictor: evaluation.Predictor, threshold: float) -> None:
    with pytest.raises(ConfigError) as caught:
        predictor.predict(bright_left(), threshold)
    assert caught.value.code == "threshold"


def test_a_file_that_is_not_described_needs_options(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.segmenter(), tmp_path)
    codes = {}
    for name, options in {"nothing": {}, "no size": {"output": "probabilities"}}.items():
        with pytest.raises(UserError) as caught:
            evaluation.load(path, **options)
        codes[name] = caught.value.code
    assert codes == {"nothing": "unknown-output-kind", "no size": "unknown-input-size"}
    found = evaluation.load(path, output="probabilities", default_size=(32, 48))
    assert found.size == (32, 48)
    with pytest.raises(NetworkError):
        evaluation.load(tmp_path / "missing.onnx", output="logits")


NOISE = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
FORMS = [
    ("uint8", []),  # bytes are what such an input takes
    ("NHWC in and out", ["--output-kind=softmax_logits", "--channel", "3", "15", "16"]),
    ("softmax of two", ["--output-kind=probabilities", "--channel=1"]),
    ("argmax", ["--output-kind=class_indices", "--channel=1"]),
    ("named axes, NHWC", ["--layout=nhwc", "--output-layout=nchw"]),
    (
        "BGR with mean and std",
        [
            "--channel-order=bgr",
            "--normalization={mean: [120, 110, 100], std: [50, 60, 70], scale: 255}",
        ],
    ),
]


def parsed(arguments: list[str]) -> dict:
    parser = common.CommandParser("predict", None)
    add_model_options(parser)
    return model_options(parser.parse_args(arguments))._asdict()


@pytest.mark.parametrize(("name", "arguments"), FORMS)
def test_options_describe_networks_of_every_form(
    tmp_path: Path, name: str, arguments: list[str]
) -> None:
    forms, defaults = variants(), {"output": "logits", "normalization": "unit"}
    plain = evaluation.load(
        onnx_models.save(forms["plain"].model, tmp_path, "plain.onnx"), **defaults, size=(12, 16)
    )
    given = {key: value for key, value in parsed(arguments).items() if value is not None}
    if name == "uint8":
        defaults.pop("normalization")
    path = onnx_models.save(forms[name].model, tmp_path)
    other = evaluation.load(path, **{**defaults, **given}, size=(12, 16))
    wanted = plain.predict(NOISE)
    assert 0.1 < wanted.mean() < 0.9
    assert np.array_equal(other.predict(NOISE), wanted)
    for part in forms[name].described:
        assert part in other.description


def test_a_mean_and_a_deviation_can_be_given_on_the_command_line() -> None:
    text = "--normalization={mean: [0.1, 0.2, 0.3], std: [1, 2, 3]}"
    wanted = config.MeanStd(mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert parsed([text])["normalization"] == wanted
    assert parsed(["--normalization=half"])["normalization"] == "half"
    for wrong in ("imagenett", "{mean: [1, 2, 3]}", "[1", "{mean: [0, 0, 0], std: [0, 1, 1]}"):
        with pytest.raises(ConfigError) as caught:
            parsed(["--normalization", wrong])
        assert caught.value.code == "command-line"


def test_drawings_have_the_size_of_the_image() -> None:
    image = bright_left()
    mask = masks.grey_mask(image[..., 0] > 100)
    assert set(np.unique(mask)) == {0, 255}
    for draw in masks.DRAWINGS.values():
        assert draw(image, mask).size == (80, 50)
    assert np.array_equal(masks.grey_mask(np.float32([[0, 0.5, 1]])), [[0, 128, 255]])


def batches(count: int) -> list[dict[str, np.ndarray]]:
    """Batches of two images each, whose masks are their bright halves."""
    images = np.stack([bright_left(HEIGHT, WIDTH)] * 2)
    return [{"images": images, "masks": images.max(-1) > 100} for _ in range(count)]


def test_batches_are_evaluated(predictor: evaluation.Predictor) -> None:
    counted: list[int] = []
    result = evaluation.evaluate(predictor, batches(3), progress=counted.append)
    assert counted == [2, 2, 2]
    assert (result.images, result.without_masks, result.teacher) == (6, 0, None)
    assert result.network["miou"] == 1.0
    assert [one["id"] for one in result.per_image] == [1, 2, 3, 4, 5, 6]
    assert len(result.worst) == 6
    assert result.worst_grid().width > 3 * WIDTH
    assert "worst" not in result.as_dict()
    with pytest.raises(ConfigError) as caught:
        evaluation.evaluate(predictor, batches(1), own_size=True)
    assert caught.value.code == "own-size"


def test_the_worst_of_batches_of_two_sizes_are_drawn(predictor: evaluation.Predictor) -> None:
    small = np.stack([bright_left(HEIGHT // 2, WIDTH // 2)] * 2)
    both = [*batches(1), {"images": small, "masks": small.max(-1) > 100}]
    grid = evaluation.evaluate(predictor, both).worst_grid()
    assert grid.width > 3 * WIDTH
    assert 3 * HEIGHT < grid.height < 3 * HEIGHT + 50


def test_padding_is_left_out_wherever_it_is(predictor: evaluation.Predictor) -> None:
    images = np.stack([bright_left(HEIGHT, WIDTH)] * 3)
    masks = (images.max(-1, keepdims=True) > 100).astype(np.uint8)
    masks[1] = 1 - masks[1]  # would score 0
    weights, labelled = np.float32([1, 0, 1]), np.ones(3, np.float32)
    batch = Batch(images, masks, weights, labelled, np.array([7, 8, 9]))
    counted: list[int] = []
    result = evaluation.evaluate(predictor, [batch], progress=counted.append)
    assert (result.images, counted, result.network["miou"]) == (2, [2], 1.0)
    assert [one["id"] for one in result.per_image] == [7, 9]
    assert [one.score for one in result.worst] == [1.0, 1.0]


def test_images_without_masks_are_compared_with_a_teacher(
    predictor: evaluation.Predictor,
) -> None:
    def teacher(images):
        """Marks everything."""
        return TeacherOutputs(logits=images[..., :1] * 0 + 1)

    plain = [(batch["images"], None) for batch in batches(2)]
    result = evaluation.evaluate(predictor, plain, teacher)
    assert result.network == {"agreement": 0.5}
    assert result.teacher == {}
    assert result.worst[0].score == 0.5
    assert result.worst[0].mask is None
    with pytest.raises(DataError) as caught:
        evaluation.evaluate(predictor, plain)
    assert caught.value.code == "nothing-to-compare"


def test_data_without_images_is_refused(predictor: evaluation.Predictor) -> None:
    with pytest.raises(DataError) as caught:
        evaluation.evaluate(predictor, [])
    assert caught.value.code == "no-images"
