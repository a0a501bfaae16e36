"""Libraries whose layouts and interfaces we depend on closely have tested upper versions."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", ["flax", "grain", "jax", "optax", "orbax-checkpoint"])
def test_a_library_is_bounded_above_and_installed_within_its_bounds(name: str) -> None:
    [requirement] = [
        found for found in map(Requirement, PROJECT["dependencies"]) if found.name == name
    ]
    assert any(bound.operator == "<" for bound in requirement.specifier)
    assert version(name) in requirement.specifier
