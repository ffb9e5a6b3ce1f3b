"""Which mutants are drawn, on a module of a few lines."""

from pathlib import Path

import pytest

from tests.mutants import sample

MODULE = '''"""A module."""


def scaled(value: int | None, by: float = 2.0) -> float | None:
    if value is None:
        return None
    return (
        value
        * by
    )
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "scoring" / "scaled.py"
    path.parent.mkdir(parents=True)
    path.write_text(MODULE)
    return tmp_path


def test_every_operator_is_mutated_and_no_annotation(tree: Path) -> None:
    found = sample.mutants(tree)
    places = {(mutant.line, mutant.column) for mutant in found}
    assert places == {(4, 42), (5, 7), (5, 13), (9, 8)}  # 2.0, the condition twice, and the product.
    assert len({mutant.apply(MODULE) for mutant in found if (mutant.line, mutant.column) == (9, 8)}) == 11


def test_a_sample_has_one_mutant_a_place_and_is_the_same_for_a_seed(tree: Path) -> None:
    drawn = sample.sample(tree, 100, 3)
    assert len({(mutant.line, mutant.column) for mutant in drawn}) == len(drawn) == 4
    assert drawn == sample.sample(tree, 100, 3)
    assert sample.sample(tree, 2, 3) == drawn[:2]
    assert any(sample.sample(tree, 100, seed) != drawn for seed in range(4, 9))
    assert all(mutant.change(MODULE) for mutant in drawn)


def test_a_statement_has_all_its_lines_and_a_compound_one_those_before_its_body() -> None:
    assert sample.statement(MODULE, 9) == range(7, 11)
    assert sample.statement(MODULE, 5) == range(5, 6)
    assert sample.statement(MODULE, 4) == range(4, 5)
