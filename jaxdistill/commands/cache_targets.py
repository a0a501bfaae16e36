"""Computes teacher outputs before training: `jaxdistill cache-targets --config FILE`.

The target cache, `targets.cache`, then holds every output that a run of this configuration reads.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxdistill import config
from jaxdistill.commands import common
from jaxdistill.runtime import distributed, xla


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses arguments and fills the cache.

    Args:
      arguments: The arguments; None takes those of the process.
    """
    parser = common.CommandParser("cache-targets", __doc__)
    parser.add_argument(
        "--config", required=True, help="the run's YAML file, or a shipped configuration's name"
    )
    distributed.add_options(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="any key, such as targets.cache=PATH"
    )
    args = parser.parse_intermixed_args(arguments)
    settings = config.load(Path(args.config), args.overrides)
    xla.allocate_as_needed()
    with distributed.initialized(args):
        xla.configure_for_training()
        from jaxdistill.training.precompute import precompute
        from jaxdistill.training.trainer import Trainer

        precompute(Trainer.from_config(settings))
