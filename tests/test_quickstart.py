"""The notebook runs from its first cell to its last, and its student finds the figures."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    found = re.search(r"IoU of a new image: ([\d.]+)", printed)
    assert found, printed
    assert float(found[1]) > 0.9
    assert (tmp_path / "student.onnx").exists()
