"""MLflow: metrics and sample grids of a run, on a server or below the run's folder.

Environment variables of the package choose server and experiment: `MLFLOW_TRACKING_URI`,
`MLFLOW_EXPERIMENT_NAME`. Without a server, the run is kept in `RUN/mlruns`.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from jaxdistill.config.flat import flat
from jaxdistill.reporting.run_files import sample_path
from jaxdistill.reporting.trackers.base import TRACKERS, known_id, remember_id

_NAME = "mlflow"
_MAX_PARAMS = 100  # of one request


@TRACKERS.register(_NAME)
class MlflowTracker:
    """Sends a run to MLflow.

    Args:
      run: The run's folder; its name is the run's.
      settings: The run's configuration; its keys are the parameters.
    """

    package: ClassVar[str] = _NAME

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._folder, self._metric = run, Metric
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if not server:  # files, which MLflow 3 has to be allowed: a database needs more packages
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(server or (run / "mlruns").absolute().as_uri())
        identity = known_id(run, _NAME)
        if identity is None:
            created = self._client.create_run(self._experiment(), run_name=run.absolute().name)
            identity = created.info.run_id
            params = [Param(key, str(value)) for key, value in flat(settings)]
            for start in range(0, len(params), _MAX_PARAMS):
                self._client.log_batch(identity, params=params[start : start + _MAX_PARAMS])
            remember_id(run, _NAME, identity)
        self._id = identity
        self._client.update_run(identity, status="RUNNING")

    def epoch(self, number: int, values: Mapping[str, float], grid: Image.Image | None) -> None:
        """Sends an epoch as the step of this number."""
        now = int(time.time() * 1000)
        metrics = [self._metric(key, value, now, number) for key, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)
        if grid is not None:
            file = sample_path(self._folder, number)
            self._client.log_artifact(self._id, str(file), artifact_path=file.parent.name)

    def close(self) -> None:
        """Marks the run as finished; a resumed run marks it as running again."""
        self._client.set_terminated(self._id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxdistill")
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id
