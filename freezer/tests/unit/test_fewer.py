"""The table of the tests of which some variants run."""

import ast

import pytest

from freezer.tests import fewer
from freezer.tests.agent import ROOT


@pytest.mark.parametrize('name', fewer.VARIANTS)
def test_each_is_there(name: str) -> None:
    """One that was renamed would run all its variants."""
    path, *scopes = name.split('::')
    inside: ast.AST = ast.parse((ROOT / 'freezer/tests' / path).read_text())
    for scope in scopes:
        (inside,) = (
            each
            for each in ast.walk(inside)
            if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == scope
        )


def test_at_equal_distances() -> None:
    assert fewer.some('abcdefg', 3) == ['a', 'c', 'e']
    assert fewer.some('ab', 3) == ['a', 'b']
