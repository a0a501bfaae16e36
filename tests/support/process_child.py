"""`jaxdistill.train`, smoothly, leaving a list of which pictures it read for which step."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from smooth import smooth_activations

from jaxdistill.commands import train
from jaxdistill.runtime.errors import command
from jaxdistill.training import input_pipeline

_attach = input_pipeline.InputPipeline.__call__


def _noted(
    pipeline: input_pipeline.InputPipeline, batches, first_step: int = 0
) -> Iterator[input_pipeline.TrainBatch]:
    seen = Path(os.environ["SEEN"]) / f"{os.getpid()}.jsonl"
    for step, rows in enumerate(_attach(pipeline, batches, first_step), start=first_step):
        if pipeline.augmentation.kind != "none":  # not the validation's
            with seen.open("a") as file:
                ids = [int(image) for image in rows[0].ids]
                file.write(json.dumps({"step": step, "ids": ids}) + "\n")
        yield rows


input_pipeline.InputPipeline.__call__ = _noted  # type: ignore[method-assign]

if __name__ == "__main__":
    with smooth_activations():
        sys.exit(command(train.main))
