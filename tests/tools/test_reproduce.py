"""The documents' tables are made again by the commands that stand there."""

import json
from pathlib import Path

import pytest
import reproduce

from jaxdistill.runtime.errors import command


@pytest.mark.parametrize("name", reproduce.TABLES)
def test_every_table_has_commands(name: str) -> None:
    table = reproduce.TABLES[name]
    assert reproduce.commands(table)
    assert "data" in table.needs or "PATH/TO/COCO" not in reproduce.commands(table)


def test_commands_take_the_reader_s_folder_and_go_on(tmp_path: Path) -> None:
    text = reproduce.script(reproduce.TABLES["recommended"], str(tmp_path / "my images"))
    assert "PATH/TO/COCO" not in text
    assert f"'{tmp_path}/my images'" in text
    assert text.startswith("jaxdistill train --resume ")


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with two tables, of which the second fails once."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").write_text(
        "# First\n\n```sh\necho one >> trace\n```\n\n## Below\n\n```sh\nfalse\n```\n\n"
        "# Second\n\n```sh\necho two >> trace\nmv once gone\n```\n"
    )
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "STATE", tmp_path / "runs/tables")
    found = {name: reproduce.Table("page.md", name.title()) for name in ("first", "second")}
    monkeypatch.setattr(reproduce, "TABLES", found)
    return tmp_path


def test_what_is_made_is_left_out_and_what_failed_is_run_again(tables: Path) -> None:
    assert reproduce.main(["all"]) == 1
    [made] = entries(tables, "first")
    assert made["commands"] == "echo one >> trace\n"
    assert made["done"]
    assert {"start", "commit", "machine", "seconds"} <= set(made)
    (tables / "once").touch()
    assert reproduce.main(["all"]) == 0
    assert (tables / "trace").read_text().split() == ["one", "two", "two"]
    assert [each["done"] for each in entries(tables, "second")] == [False, True]


def entries(tables: Path, name: str) -> list[dict]:
    return json.loads((tables / "runs/tables" / name / reproduce.MADE).read_text())


def test_a_table_of_other_commands_is_made_again(tables: Path) -> None:
    assert reproduce.main(["first"]) == 0
    page = tables / "docs/page.md"
    page.write_text(page.read_text().replace("echo one", "echo three"))
    for _ in range(2):
        assert reproduce.main(["first"]) == 0
    assert (tables / "trace").read_text().split() == ["one", "three"]
    assert len(entries(tables, "first")) == 2


def test_ctrl_c_is_one_line_and_its_time_counts(
    tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "about", lambda: {"commit": "abc"})
    monkeypatch.setattr(reproduce.subprocess, "run", interrupted)
    assert command(lambda: reproduce.main(["first"])) == 130
    assert capsys.readouterr().err == "interrupted\n"
    [made] = entries(tables, "first")
    assert (made["commit"], made["seconds"], made["done"]) == ("abc", 0, False)


@pytest.mark.parametrize("name", ["distillation", "longer", "recommended"])
def test_a_table_of_other_masks_says_so(name: str) -> None:
    assert "mask_resize=nearest" not in reproduce.commands(reproduce.TABLES[name])
    assert "mask_resize=nearest" in reproduce.TABLES[name].needs


def test_tables_are_listed_with_their_state(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.main(["first"])
    reproduce.main([])
    printed = capsys.readouterr().out
    assert "made" in printed
    assert "not made" in printed


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(SystemExit):
        reproduce.main(["nothing"])
