"""`jaxdistill.train`, smoothly, leaving a list of which pictures it read for which step."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from smooth import smoothly

from jaxdistill.commands import train
from jaxdistill.runtime.errors import command
from jaxdistill.training import input_pipeline

_feed = input_pipeline.Source.feed


def _noted(
    source: input_pipeline.Source, read, first_step: int = 0
) -> Iterator[input_pipeline.TrainBatch]:
    seen = Path(os.environ["SEEN"]) / f"{os.getpid()}.jsonl"
    for step, fed in enumerate(_feed(source, read, first_step), start=first_step):
        if source.augmentation.kind != "none":  # not the validation's
            with seen.open("a") as file:
                ids = [int(picture) for picture in fed[0].ids]
                file.write(json.dumps({"step": step, "ids": ids}) + "\n")
        yield fed


input_pipeline.Source.feed = _noted  # type: ignore[method-assign]

if __name__ == "__main__":
    with smoothly():
        sys.exit(command(train.main))
