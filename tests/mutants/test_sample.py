"""Which mutants are drawn, on a module of a few lines."""

from pathlib import Path

import pytest

from tests.mutants import sample

MODULE = '''"""A module."""


@dataclass(frozen=True)
class Pair:
    first: int
    second: int


def scaled(value: int | None, by: float = 2.0) -> float | None:
    if value is None:
        return None
    return (
        value
        * by
    )


if __name__ == "__main__":
    print(list(zip([1], [2], strict=True)))
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "scoring" / "scaled.py"
    path.parent.mkdir(parents=True)
    path.write_text(MODULE)
    return tmp_path


def test_every_operator_is_mutated_and_what_is_excepted_is_not(tree: Path) -> None:
    found = sample.mutants(tree)
    places = {(mutant.line, mutant.column) for mutant in found}
    assert places == {(10, 42), (11, 7), (11, 13), (15, 8), (20, 20), (20, 25)}  # Numbers, the condition, the product.
    assert len({mutant.apply(MODULE) for mutant in found if (mutant.line, mutant.column) == (15, 8)}) == 11


def test_a_sample_has_one_mutant_a_place_and_is_the_same_for_a_seed(tree: Path) -> None:
    drawn = sample.sample(tree, 100, 3)
    assert len({(mutant.line, mutant.column) for mutant in drawn}) == len(drawn) == 6
    assert drawn == sample.sample(tree, 100, 3)
    assert sample.sample(tree, 2, 3) == drawn[:2]
    assert any(sample.sample(tree, 100, seed) != drawn for seed in range(4, 9))
    assert all(mutant.change(MODULE) for mutant in drawn)


def test_a_dotted_exception_that_cannot_be_replaced_is_drawn_again(tree: Path) -> None:
    module = "try:\n    pass\nexcept (OSError, os.error) as error:\n    pass\n"
    (tree / "model" / "scoring" / "scaled.py").write_text(module)
    for seed in range(5):
        assert [mutant.change(module) for mutant in sample.sample(tree, 9, seed)] == [
            "except (OSError, os.error) as error: -> except (CosmicRayTestingException, os.error) as error:"
        ]


def test_a_statement_has_all_its_lines_and_a_compound_one_those_before_its_body() -> None:
    assert sample.statement(MODULE, 15) == range(13, 17)
    assert sample.statement(MODULE, 11) == range(11, 12)
    assert sample.statement(MODULE, 10) == range(10, 11)
    assert [line for line in range(1, 21) if sample.at_import(MODULE, line)] == [*range(1, 11), *range(17, 21)]
