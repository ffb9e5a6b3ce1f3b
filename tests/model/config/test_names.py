"""Names and numbers that an experiment may hold: none reaches a shell, a path or a page as anything but itself."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.base import check_name
from model.puzzles import grids
from model.puzzles.grids import GridError
from tasks.common.presets import ConfigurationError
from tests.conftest import experiment

BAD = ["", " ", "a b", "a;b", "$(id)", "`id`", "../x", "/etc/passwd", "a/b", "..", "a..b", ".a", "-a", "a-", "a.lock"]
BAD += ["a\n", "\x1b[31m", "[/red]", "é", "٤", "a\udc80", "a" * 65, "a|b", "a&b", "a'b", 'a"b', "~", "*", "%20", "a\0b"]
EVALUATION = {
    "weights": "as-trained",
    "steps": 3,
    "answers": {"by": "attempts", "count": 2},
    "sampler": "draw",
    "sizes": "own",
    "transposed_sizes": "swapped",
    "task_row": "view",
    "stop_decided": None,
    "ranking": None,
    "subset": "evaluation",
    "limit": 0,
}
EVALUATION |= {"time_map": "spaced", "self_conditioning": "none"}


def named(name: str) -> list[dict[str, Any]]:
    """Every place of an experiment at which a name enters."""
    return [
        {"evaluations": {name: EVALUATION}, "predict": {"evaluations": [name]}},
        {"publish": {"experiment": name}},
        {"prepare": {"training_subset": name}},
        {"prepare": {"evaluation_subset": name}},
        {"train": {"finetune": {"start": name}}},
    ]


@pytest.mark.parametrize("name", BAD[1:], ids=repr)
def test_what_is_no_name_is_refused_wherever_it_enters(name: str) -> None:
    for changes in named(name):
        with pytest.raises(ConfigurationError, match="is no name; allowed are"):
            experiment(**changes)
    with pytest.raises(GridError, match=r"^task id .* is no name; allowed are") as refused:
        grids.task(name, {"train": [], "test": []})
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["attempts", "votes-raw-index", "12_views", "v7.1", "0", "66e6c45b", "a" * 64])
def test_names_are_accepted(name: str) -> None:
    for changes in named(name):
        experiment(**changes)


@given(st.text(max_size=70) | st.text("ab1._-", max_size=70))
def test_a_name_is_itself_in_a_shell_a_path_and_a_branch(text: str) -> None:
    try:
        check_name(text)
    except ValueError as error:
        assert str(error).isprintable()
        return
    assert shlex.quote(text) == text
    assert Path("folder", text).parts == ("folder", text)
    assert not re.search(r"\.\.|[\x00-\x20~^:?*\[\\]|@\{|\.lock$|\.$|^\.|^-", text), "git check-ref-format"


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"train": {"network": {"width": 8 * 10**9}}}, 65536),
        ({"train": {"network": {"layers": 10**6}}}, 1024),
        ({"train": {"optimizer_steps": 10**12}}, 10**9),
        ({"score": {"bootstrap": 10**12}}, 100_000),
        ({"evaluations": {"votes": {"answers": {"views": 10**7}}}}, 100_000),
        ({"evaluations": {"votes": {"steps": 10**7}}}, 100_000),
        ({"augment": {"voting_views": 10**7}}, 100_000),
        ({"train": {"noise": {"steps": 10**7}}}, 100_000),
    ],
    ids=str,
)
def test_a_number_that_no_machine_can_serve_is_refused_with_its_limit(changes: dict[str, Any], limit: int) -> None:
    with pytest.raises(ConfigurationError, match=f"less than or equal to {limit}"):
        experiment(**changes)
