"""Weights & Biases: metrics and sample grids of a run, online or below the run's folder.

Environment variables of the package choose project, entity and mode: `WANDB_PROJECT`,
`WANDB_ENTITY`, `WANDB_MODE`. Without a login the run is kept offline, in `RUN/wandb`, from where
`wandb sync` sends it.
"""

import netrc
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from PIL import Image

from jaxdistill.reporting.trackers.base import TRACKERS, known_id, remember_id

_NAME = "wandb"


@TRACKERS.register(_NAME)
class WandbTracker:
    """Sends a run to Weights & Biases.

    Args:
      run: The run's folder; its name is the run's.
      settings: The run's configuration.
    """

    package: ClassVar[str] = _NAME

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        # Without a login `init` would ask for one on the terminal.
        offline = "WANDB_MODE" not in os.environ and not _is_logged_in()
        identity = known_id(run, _NAME) or secrets.token_hex(4)
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxdistill"),
            name=run.absolute().name,
            id=identity,
            resume="allow",
            dir=run,
            config=dict(settings),
            mode="offline" if offline else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        remember_id(run, _NAME, identity)

    def epoch(self, number: int, values: Mapping[str, float], grid: Image.Image | None) -> None:
        """Sends an epoch as the step of this number."""
        grids = {} if grid is None else {"samples": self._image(grid)}
        self._run.log({**values, **grids}, step=number)

    def close(self) -> None:
        """Waits until everything was sent or written."""
        self._run.finish()


def _is_logged_in() -> bool:
    """Returns whether there is a key, in the environment or where `wandb login` keeps it."""
    if "WANDB_API_KEY" in os.environ:
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
