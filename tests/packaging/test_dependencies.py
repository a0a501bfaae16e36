"""What the package imports is declared; what it depends on closely has a tested upper version."""

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_INSTALLED = {"mlflow": ["mlflow-skinny"]}
"""Distributions of packages that need not be installed, where the names differ."""


@pytest.mark.parametrize("name", ["flax", "grain", "jax", "optax", "orbax-checkpoint"])
def test_a_library_is_bounded_above_and_installed_within_its_bounds(name: str) -> None:
    [requirement] = [
        found for found in map(Requirement, PROJECT["dependencies"]) if found.name == name
    ]
    assert any(bound.operator == "<" for bound in requirement.specifier)
    assert version(name) in requirement.specifier


def names(requirements: Sequence[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def imported(statements: Iterator[ast.AST]) -> set[str]:
    """Returns the packages of other projects that statements import."""
    found = set()
    for statement in statements:
        if isinstance(statement, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            found.add(str(statement.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"jaxdistill"}


def test_every_package_that_is_imported_is_declared() -> None:
    distributions = NOT_INSTALLED | packages_distributions()

    def undeclared(packages: set[str], declared: set[str]) -> set[str]:
        return {
            package
            for package in packages
            if not declared & {canonicalize_name(d) for d in distributions.get(package, [package])}
        }

    always = names([*PROJECT["dependencies"], "onnxruntime"])  # of cpu, cuda12 or cuda13
    anywhere = always.union(*map(names, EXTRAS.values()))
    for path in (ROOT / "jaxdistill").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not undeclared(imported(ast.walk(tree)), anywhere), path
        if "_interop" not in str(path):  # which need an extra
            assert not undeclared(imported(iter(tree.body)), always), path
