"""Analysis of frozen networks: which inner tensors tell most about people."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill.analysis.feature_ranking import FeatureRanking, rank_features

__all__ = ["FeatureRanking", "rank_features"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that this package itself imports nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.feature_ranking"), name)
