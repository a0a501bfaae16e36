"""Which changes make a run another run."""

import pytest
import tiny_run

from jaxdistill import config
from jaxdistill.training import provenance

FILES = {"data.train": "a"}


def provenance_with(*overrides):
    loaded = config.load(tiny_run.SPECIFIED, ["data.augment=flip", *overrides])
    return {"settings": loaded.model_dump(mode="json"), "files": FILES}


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([], ["targets.cache=a"], ["targets.cache was None and is 'a folder'"]),
        (["targets.cache=a"], [], ["targets.cache was 'a folder' and is None"]),
        (["targets.cache=a"], ["targets.cache=b"], []),
        (["run=a", "data.root=b"], ["run=c", "training.epochs=99"], []),
        ([], ["data.crop=0.5"], ["data.crop was None and is 0.5"]),
    ],
)
def test_what_changes_a_number_is_a_difference(before, now, found):
    assert provenance.differences(provenance_with(*before), provenance_with(*now)) == found


def test_a_run_before_masks_were_aligned_differs_from_one_of_today():
    old, today = (provenance_with("data.mask_resize=area") for _ in range(2))
    del old["settings"]["data"]["mask_resize"]
    [difference] = provenance.differences(old, today)
    assert difference.startswith("data.mask_resize was 'nearest'")
    assert provenance.differences(old, provenance_with("data.mask_resize=nearest")) == []


def test_processes_may_differ_in_paths_only():
    def compared(*overrides):
        return dict(
            provenance._compared(provenance_with(*overrides)["settings"], provenance._PATHS)
        )

    assert compared("run=a", "data.root=b", "teacher.onnx=c") == compared()
    for other in ("training.epochs=99", "checkpoints.every_steps=1", "training.skip_nonfinite=1"):
        assert compared(other) != compared(), other
