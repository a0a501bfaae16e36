"""Fixtures of the tests of data."""

from pathlib import Path

import pytest
from coco_folders import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder in COCO layout without images."""
    return Folder(tmp_path)
