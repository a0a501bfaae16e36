"""Videos that are drawn in small parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import clips
import pytest

from jaxdistill.data.video import open_source
from jaxdistill.evaluation.predictor import Predictor
from jaxdistill.evaluation.video import prediction


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws a video, in parts of 8 frames."""
    monkeypatch.setattr(prediction, "PART", 8)

    def drawn(clip: Path, output: Path = tmp_path / "out", **options: Any) -> Any:
        with open_source(clip) as source:
            return prediction.predict_video(Predictor(clips.Bright()), source, output, **options)

    return drawn
