"""The HTML report: complete, safe, small, and working in a browser."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_run import SETTINGS, Page, line, make, rows

from jaxdistill.commands import report
from jaxdistill.reporting import html as html_lib
from jaxdistill.reporting.html.formatting import format_name
from jaxdistill.runtime import errors
from jaxdistill.runtime.errors import RunError, UserError

HOSTILE = """</script><script>document.title='taken'</script><img src=x onerror="boom()">'"&$x"""


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("student_boundary_iou", "Student boundary IoU"),
        ("teacher_miou", "Teacher mIoU"),
        ("miou", "mIoU"),
        ("kl", "KL"),
        ("learning_rate", "Learning rate"),
    ],
)
def test_names_of_numbers_become_titles(name, title):
    assert format_name(name) == title


def test_the_headlines_are_the_best_epochs(run):
    text = Page(html_lib.render(run)).text
    for expected in (
        "Student mIoU 0.8123 best, epoch 2; latest 0.8000",
        "Teacher mIoU 0.9500 student at 85.5% of it",
        "Agreement 0.9200",
        "Epochs 3 / 5 about 2 min to go",
        "Training speed 2.5 images/s",
        "night tf_efficientnet_lite0 320 \N{MULTIPLICATION SIGN} 256 teacher large_teacher.onnx",
    ):
        assert expected in text


def test_a_run_that_ended_early_has_no_time_to_go(tmp_path):
    ended = {"Run": {"ended": "early stopping after epoch 1"}}
    text = Page(html_lib.render(make(tmp_path / "run", [line(1)], provenance=ended))).text
    assert "Epochs 1 / 5 ended early" in text
    assert "early stopping after epoch 1" in text
    assert "to go" not in text


def test_of_equal_scores_the_last_one_is_the_best_as_among_checkpoints(tmp_path):
    equal = [{**line(2), "epoch": epoch} for epoch in (1, 2, 3)]
    text = Page(html_lib.render(make(tmp_path / "run", equal))).text
    assert "Student mIoU 0.8123 best, epoch 3" in text


def test_each_of_several_teachers_is_named(tmp_path):
    several = {**SETTINGS, "teacher": [{"onnx": "models/one.onnx"}, {"onnx": "two.onnx"}, 3]}
    text = Page(html_lib.render(make(tmp_path / "run", [line(1)], several))).text
    assert "teacher one.onnx teacher two.onnx" in text


def test_the_table_holds_every_number_of_every_epoch(run):
    html = html_lib.render(run)
    read = rows(html)
    assert [row[0] for row in read] == ["1", "2", "3"]
    for row, epoch in zip(read, (1, 2, 3), strict=True):
        written = line(epoch)
        flat = [v for group in ("train", "validation", "seconds") for v in written[group].values()]
        np.testing.assert_allclose([float(v) for v in row[1:]], [*flat, 2.5], rtol=1e-3, atol=5e-5)


def test_numbers_of_a_column_have_equal_decimals(run):
    for column in zip(*rows(html_lib.render(run)), strict=True):
        assert len({len(value.partition(".")[2]) for value in column}) == 1


def test_every_number_is_in_one_chart_whose_legend_points_into_the_table(run):
    parsed = Page(html_lib.render(run))
    columns = [int(tag["data-column"]) for tag in parsed.all("dd") if "data-column" in tag]
    assert sorted(columns) == list(range(1, 4 + 5 + 2 + 1 + 1))
    labels = [svg["aria-label"] for svg in parsed.all("svg")]
    assert "mIoU from epoch 1 to 3: student 0.7000 to 0.8000, teacher 0.9500 to 0.9500" in labels
    # Losses have a logarithmic chart as well.
    assert sum(label.startswith("Total from") for label in labels) == 2
    assert sum(label.startswith("Learning rate from") for label in labels) == 1
    assert "BCE weight 0.25 train" in parsed.text


def test_norms_and_weights_of_pairs_are_no_losses(tmp_path):
    norms = {"gradient_norm_decoder": 0.4, "feature_weight.0": 1.2}
    train = {"bce": 0.5, "feature.0": 0.3, **norms}
    html = html_lib.render(make(tmp_path / "pairs", [line(1, train=train)]))
    losses = html[html.index("<h3>Losses</h3>") : html.index("<h3>Training</h3>")]
    training = html[html.index("<h3>Training</h3>") :]
    titles = {name: f"<h4>{format_name(name)}</h4>" for name in train}
    assert {name for name in titles if titles[name] in losses} == {"bce", "feature.0"}
    assert {name for name in titles if titles[name] in training} == set(norms)


def test_provenance_and_configuration_are_there(run):
    html = html_lib.render(run)
    text = Page(html).text
    for expected in (
        "training images 118 287",  # \s matches the narrow space between thousands
        "devices cpu:0, cpu:1",
        "float64 no",
        "share 0.5",
        "encoder: tf_efficientnet_lite0",
    ):
        assert expected in text
    assert f"<code>{'9f' * 32}</code>" in html


def test_the_samples_of_each_epoch_are_inside_and_the_latest_shows(run):
    images = Page(html_lib.render(run)).all("img")
    assert [image["data-epoch"] for image in images] == ["1", "2", "3"]
    assert ["hidden" in image for image in images] == [True, True, False]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)


def test_nothing_outside_the_file_is_asked_for(run):
    html = html_lib.render(run)
    for _, attributes in Page(html).tags:
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert "default-src 'none'" in html


def test_the_same_folder_gives_the_same_page(run):
    assert html_lib.render(run) == html_lib.render(run)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """HOSTILE wherever a run's files may hold text."""
    settings = {
        **SETTINGS,
        "student": {"encoder": HOSTILE},
        "teacher": {"onnx": HOSTILE.replace("/", "")},
        "note": HOSTILE,
    }
    lines = [
        line(e, **{HOSTILE: {HOSTILE: 0.5}, "images_per_second": HOSTILE}, **{"x" + HOSTILE: 1.0})
        for e in (1, 2)
    ]
    provenance = {HOSTILE: {HOSTILE: HOSTILE, "list": [HOSTILE], "nested": {HOSTILE: HOSTILE}}}
    name = HOSTILE.replace("/", "")
    return make(tmp_path / name, lines, settings, provenance)


def test_text_from_files_stays_text(hostile, run):
    tags = [name for name, _ in Page(html_lib.render(hostile)).tags]
    plain = [name for name, _ in Page(html_lib.render(run)).tags]
    assert tags.count("script") == plain.count("script") == 1
    assert tags.count("img") == 2
    parsed = Page(html_lib.render(hostile))
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    # Title line, subtitle, table and its groups; titles, names and values of the provenance.
    assert parsed.text.count(HOSTILE) >= 6


def test_missing_and_impossible_numbers_are_tolerated(tmp_path):
    lines = [line(1), line(2), line(3)]
    lines[1]["validation"] = {"bce": math.nan, "student_miou": math.nan, "total": math.inf}
    lines[2]["train"] = {"bce": None, "total": -1.0}
    lines[2]["late"] = {"comer": 7}
    html = html_lib.render(make(tmp_path / "run", lines))
    Page(html)
    first, second, third = rows(html)
    assert "NaN" in second
    assert "inf" in second
    assert "\N{EN DASH}" in third
    assert "Student mIoU 0.8000" in Page(html).text
    assert first[-1] == "\N{EN DASH}"
    assert third[-1] == "7"


def test_a_run_without_teacher_has_no_figures_of_one(tmp_path):
    lines = [line(1), line(2)]
    for one in lines:
        del one["validation"]["teacher_miou"], one["validation"]["agreement"]
        del one["images_per_second"]
    text = Page(html_lib.render(make(tmp_path / "run", lines, {**SETTINGS, "teacher": None}))).text
    assert "Student mIoU 0.8123 best, epoch 2" in text
    assert "Teacher mIoU" not in text
    assert "Agreement" not in text
    assert "Training time 60 s per epoch" in text


def test_a_run_without_masks_has_its_agreement_on_top(tmp_path):
    lines = [line(1), line(2), line(3)]
    for one, agreement in zip(lines, (0.91, 0.934, 0.92), strict=True):
        del one["validation"]["teacher_miou"], one["validation"]["student_miou"]
        one["validation"]["agreement"] = agreement
    text = Page(html_lib.render(make(tmp_path / "run", lines))).text
    assert "Agreement 0.9340 with the teacher; best, epoch 2; latest 0.9200" in text
    assert "mIoU" not in text


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    text = Page(html_lib.render(make(tmp_path / "run", []))).text
    assert "0 / 5" in text
    assert "No epoch has ended yet" in text
    assert "No samples yet" in text


def test_a_finished_run_says_how_long_it_took(tmp_path):
    settings = {**SETTINGS, "training": {"epochs": 3}}
    text = Page(
        html_lib.render(make(tmp_path / "run", [line(e) for e in (1, 2, 3)], settings))
    ).text
    assert "Epochs 3 / 3 complete, in 4 min" in text


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("config.yaml", None, "not-a-run"),
        ("metrics.jsonl", '{"epoch": 1}\n{"epo', "damaged-report-file"),
        ("metrics.jsonl", b"\xff\xfe", "damaged-report-file"),
        ("provenance.json", "[1]", "damaged-report-file"),
        ("provenance.json", "{", "damaged-report-file"),
        ("samples/epoch_002.png", "no image", "unreadable-report-file"),
    ],
)
def test_a_damaged_folder_is_refused(run, file, content, code):
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError) as raised:
        html_lib.render(run)
    assert raised.value.code == code
    assert str(run / file) in str(raised.value) or content is None
    assert len(str(raised.value).splitlines()) == 1


def test_a_configuration_that_is_no_yaml_is_refused(run):
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(UserError):
        html_lib.render(run)


def test_the_report_is_replaced_as_a_whole(run, monkeypatch):
    written = html_lib.write(run)
    assert written == run / "report.html"
    before = written.read_text(encoding="utf-8")
    assert before.endswith("</html>\n")
    (run / "provenance.json").unlink()

    def fail(self, target):
        assert written.read_text(encoding="utf-8") == before
        assert self.read_text(encoding="utf-8").endswith("</html>\n")
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            html_lib.write(run)
    assert written.read_text(encoding="utf-8") == before
    html_lib.write(run)
    assert written.read_text(encoding="utf-8") != before
    assert not list(run.glob("*.partial"))


def test_the_command_writes_a_report(run, capsys):
    assert errors.command(lambda: report.main([str(run)])) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert errors.command(lambda: report.main([str(run / "samples")])) == 2
    assert "[not-a-run]" in capsys.readouterr().err


def test_epochs_are_sorted_by_number(tmp_path):
    lines = [{**line(1), "epoch": epoch} for epoch in (1000, 999, 1)]
    html = html_lib.render(make(tmp_path / "run", lines))
    assert [row[0] for row in rows(html)] == ["1", "999", "1000"]
    images = Page(html).all("img")
    assert [image["data-epoch"] for image in images] == ["1", "999", "1000"]
    assert "hidden" not in images[-1]


def browse(written: Path) -> str:
    """Returns the document after its script has run; the browser must log no error."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("needs Chromium")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=2000", "--dump-dom", written.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_browser_runs_the_page_and_no_foreign_script(hostile):
    document = browse(html_lib.write(hostile))
    assert "<title>taken" not in document
    # The script ran to its end: it wrote all sliders' epochs and added the second grid.
    assert re.findall(r"<output>(\d*)</output>", document) == ["2", "1", "2"]
    assert document.count('class="sample"') == 2


@pytest.mark.slow
def test_a_browser_shows_a_run_that_has_just_begun(tmp_path):
    document = browse(html_lib.write(make(tmp_path / "run", [])))
    assert "No epoch has ended yet" in document
