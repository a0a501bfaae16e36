"""The process may end at any moment while the only checkpoint of a run is written again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxdistill import config
from jaxdistill.checkpoint.folders import newest_first, step_of
from jaxdistill.checkpoint.integrity import read_metadata
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.checkpoint.restore import restore_latest
from jaxdistill.types import TrainState


def state_of(step: int, value: float) -> TrainState:
    params = {"head.kernel": jnp.full((3, 4), value)}
    return TrainState(jnp.asarray(step), params, {"decoder.mean": jnp.zeros(5)}, ())


METADATA = {"progress": {"phase": 0}, "frozen": "ab"}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["rename", "save", "wait_until_finished", "rmtree"])
def test_a_run_always_has_a_checkpoint_while_its_only_one_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The process ends just before each of the actions that change the folder."""
    with Checkpoints(tmp_path, config.Checkpoints(keep=1)) as checkpoints:
        checkpoints.save(state_of(5, 5.0), METADATA, 0.1)
    checkpoints = Checkpoints(tmp_path, config.Checkpoints(keep=1))
    replacing = False

    def killed_at(name: str, action: Callable) -> Callable:
        def wrapped(*args: object, **options: object) -> object:
            nonlocal replacing
            replacing = replacing or name == "rename"
            if name == moment and replacing:
                raise Killed
            return action(*args, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_at("rename", Path.rename))
        patch.setattr(shutil, "rmtree", killed_at("rmtree", shutil.rmtree))
        for name in ("save", "wait_until_finished"):
            method = getattr(checkpoints._manager, name)
            patch.setattr(checkpoints._manager, name, killed_at(name, method))
        with pytest.raises(Killed):
            checkpoints.save(state_of(5, 50.0), METADATA, 0.2)
        found = list(newest_first(tmp_path / "checkpoints"))  # as the best student is looked for
        assert [step_of(folder) for folder in found] == [5]
        assert read_metadata(found[0])["score"] in (0.1, 0.2)
    checkpoints._manager.wait_until_finished()  # what Orbax's threads began
    checkpoints._manager.close()
    restored = restore_latest(tmp_path, lambda phase: state_of(0, 0.0))
    assert restored is not None
    assert int(restored.state.step) == 5
    assert float(restored.state.params["head.kernel"][0, 0]) in (5.0, 50.0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]
