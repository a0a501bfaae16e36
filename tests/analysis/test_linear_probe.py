import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.analysis.linear_probe import RIDGES, Moments, ProbeScores, fit_probe


def rows_and_targets(seed=0, count=300, channels=5, noise=0.3):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, channels)) * rng.uniform(0.1, 10, channels) + rng.normal(
        size=channels
    )
    targets = rows @ rng.normal(size=channels) + 2 + noise * rng.normal(size=count)
    return rows.astype(np.float32), targets


def moments_of(rows, targets, shift=None, chunks=()):
    moments = Moments(rows.mean(0) if shift is None else shift)
    for part, aim in zip(np.split(rows, chunks), np.split(targets, chunks), strict=True):
        moments.add(part, aim)
    return moments


def halves(rows, targets):
    shift = rows[0]
    return (
        moments_of(rows[0::2], targets[0::2], shift),
        moments_of(rows[1::2], targets[1::2], shift),
    )


def test_a_probe_is_the_ridge_regression_of_standardised_rows():
    """NumPy's least squares on the rows gives the same, with the ridge as further rows."""
    rows, targets = rows_and_targets(noise=20)
    probe = fit_probe(*halves(rows, targets))
    assert probe.ridge > RIDGES[0]
    mean, deviation = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    standard = (rows - mean) / deviation
    ridge = np.sqrt(probe.ridge * len(rows)) * np.eye(rows.shape[1])
    solved, *_ = np.linalg.lstsq(
        np.vstack([standard, ridge]),
        np.concatenate([targets - targets.mean(), np.zeros(len(ridge))]),
        rcond=None,
    )
    np.testing.assert_allclose(probe(rows), standard @ solved + targets.mean(), rtol=1e-9)


def test_without_noise_it_is_least_squares():
    rows, targets = rows_and_targets(noise=0)
    probe = fit_probe(*halves(rows, targets))
    assert probe.ridge == RIDGES[0]
    with_one = np.column_stack([rows, np.ones(len(rows))]).astype(np.float64)
    solved, *_ = np.linalg.lstsq(with_one, targets, rcond=None)
    np.testing.assert_allclose(probe.weights, solved[:-1], rtol=1e-4)
    assert probe.bias == pytest.approx(solved[-1], rel=1e-4)


@given(st.lists(st.integers(0, 300), max_size=6).map(sorted))
def test_streamed_rows_equal_all_rows_at_once(chunks):
    rows, targets = rows_and_targets()
    once, streamed = moments_of(rows, targets), moments_of(rows, targets, chunks=chunks)
    np.testing.assert_allclose(streamed.products, once.products, rtol=1e-12, atol=1e-9)


def test_a_large_offset_loses_no_digits():
    rows, targets = rows_and_targets()
    far = rows.astype(np.float64) + 1e4
    near = fit_probe(*halves(rows.astype(np.float64), targets))
    np.testing.assert_allclose(fit_probe(*halves(far, targets))(far), near(rows), atol=1e-9)


def test_constant_channels_have_no_weight():
    """Neither zeros, nor a constant that float32 cannot hold exactly, nor its rounding."""
    rows, targets = rows_and_targets()
    rounding = np.float32(1e3) * (1 + np.float32(1e-7) * (np.arange(len(rows)) % 2))
    dead = np.column_stack([np.zeros(len(rows)), np.full(len(rows), 0.1), rounding])
    padded = np.column_stack([dead.astype(np.float32), rows])
    probe, plain = fit_probe(*halves(padded, targets)), fit_probe(*halves(rows, targets))
    assert (probe.constant_channels, plain.constant_channels) == (3, 0)
    np.testing.assert_array_equal(probe.weights[:3], 0)
    np.testing.assert_allclose(probe(padded), plain(rows), rtol=1e-9)


def test_repeated_channels_share_the_weight():
    rows, targets = rows_and_targets()
    probe = fit_probe(*halves(np.column_stack([rows, rows]), targets))
    np.testing.assert_allclose(probe.weights[:5], probe.weights[5:], rtol=1e-3)


def test_the_ridge_is_the_best_one_on_the_held_out_rows():
    """With more channels than rows, a small ridge overfits."""
    rows, targets = rows_and_targets(count=80, channels=60, noise=30)
    fitted, held_out = halves(rows, targets)
    chosen = fit_probe(fitted, held_out).ridge
    assert chosen >= 0.1

    def error(ridge):
        part = rows[0::2].astype(np.float64)
        mean, deviation = part.mean(0), part.std(0)
        standard, aim = (part - mean) / deviation, targets[0::2]
        gram = standard.T @ standard / len(part) + ridge * np.eye(60)
        weights = np.linalg.solve(gram, standard.T @ (aim - aim.mean()) / len(part))
        found = (rows[1::2] - mean) / deviation @ weights + aim.mean()
        return np.square(found - targets[1::2]).mean()

    assert chosen == min(RIDGES, key=error)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_noticed(odd):
    rows, targets = rows_and_targets()
    assert moments_of(rows, targets).finite
    rows[7, 2] = odd
    assert not moments_of(rows, targets, shift=np.zeros(5)).finite


def test_scores_by_hand():
    """Above one half: 2 cells of 3 in the union; errors 0.1, 0, 0.4, 0.3; mean share 0.45."""
    scores = ProbeScores()
    scores.add(np.asarray([0.9, 0.8]), np.asarray([1.0, 0.8]))
    scores.add(np.asarray([0.4, 0.3]), np.asarray([0.0, 0.0]))
    assert scores.iou == 1
    scores.add(np.asarray([0.7]), np.asarray([0.4]))
    assert scores.iou == pytest.approx(2 / 3)
    shares = np.asarray([1, 0.8, 0, 0, 0.4])
    explained = 1 - (0.01 + 0 + 0.16 + 0.09 + 0.09) / np.square(shares - shares.mean()).sum()
    assert scores.r2 == pytest.approx(explained)


def test_without_people_the_scores_are_zero():
    scores = ProbeScores()
    scores.add(np.zeros(4), np.zeros(4))
    assert (scores.iou, scores.r2) == (0, 0)
