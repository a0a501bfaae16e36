"""The sample grids in a report: which are kept, and what they cost."""

import os

import numpy as np
from made_run import Page, line, make
from PIL import Image

from jaxdistill.reporting import html as html_lib
from jaxdistill.reporting.html import samples


def test_a_long_run_of_incompressible_samples_stays_small(tmp_path, monkeypatch):
    """A tenth of everything: of the budget, and nearly so of the grids' area."""
    monkeypatch.setattr(samples, "BUDGET", samples.BUDGET // 10)
    lines = [{**line(1), "epoch": e} for e in range(1, 51)]
    lines[18] = {**line(2), "epoch": 19}  # the best
    run = make(tmp_path / "run", lines)
    rng = np.random.default_rng(0)
    for path in (run / "samples").glob("*.png"):
        Image.fromarray(rng.integers(0, 256, (240, 300, 3), np.uint8)).save(path)
    html = html_lib.render(run)
    epochs = [int(image["data-epoch"]) for image in Page(html).all("img")]
    assert {1, 19, 50} < set(epochs)
    assert 5 < len(epochs) < 50
    assert f"{len(epochs)} of 50 epochs, to keep the report small" in Page(html).text
    assert len(html) < 1_000_000


def test_no_grid_is_kept_that_the_latest_report_did_not_look_at(run, monkeypatch):
    """Each grid is the latest one once, and is encoded once."""
    monkeypatch.setattr(samples, "BUDGET", 1)
    encoded = []
    encode = samples._encode
    monkeypatch.setattr(samples, "_encode", lambda path: encoded.append(path) or encode(path))
    paths = {n: run / "samples" / f"epoch_{n:03d}.png" for n in (1, 2, 3)}
    for last in (1, 2, 3):
        samples.embed({n: paths[n] for n in range(1, last + 1)}, best=None)
    assert encoded == list(paths.values())
    assert {path for path, _ in samples._latest} == {paths[1], paths[3]}


def test_first_best_and_latest_stay_whatever_they_cost(run, monkeypatch):
    monkeypatch.setattr(samples, "BUDGET", 1)
    paths = {n: run / "samples" / f"epoch_{n:03d}.png" for n in (1, 2, 3)}
    assert [grid.epoch for grid in samples.embed(paths, best=None).grids] == [1, 3]
    assert [grid.epoch for grid in samples.embed(paths, best=2).grids] == [1, 2, 3]


def test_a_grid_that_changed_is_encoded_again(run):
    before = html_lib.render(run)
    path = run / "samples" / "epoch_003.png"
    Image.new("RGB", (50, 30), "white").save(path)
    os.utime(path, ns=(0, 0))
    assert html_lib.render(run) != before
