import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.runs import products
from flows.runs.places import FlowError
from tasks.common.presets import ConfigurationError

NAMES = ["v3/tiny/aa1-6x6", "v6/tiny/aa1-6x6"]


@given(st.lists(st.sampled_from(["1", "2e-3", "[best, final]", "{name: muon, a: [1, 2]}", "'a, b'", '"x,y"', ""])))
def test_values_are_split_at_commas_outside_of_brackets_and_quotes(parts: list[str]) -> None:
    found = list(products.values(f"train.key={','.join(parts)}"))
    assert found == [f"train.key={part}" for part in parts or [""]]


@pytest.mark.slow
def test_every_combination_is_requested_once() -> None:
    requests = products.requests(NAMES, ["train.batch=8,16", "train.optimizer_steps=100,200,300"], "0,5", "high")
    found = [(r.experiment, *r.overrides, r.seed) for r in requests]
    batches, steps = ["train.batch=8", "train.batch=16"], [f"train.optimizer_steps={n}00" for n in (1, 2, 3)]
    assert found == list(itertools.product(NAMES, batches, steps, [0, 5]))
    assert {r.priority for r in requests} == {"high"}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((NAMES, [], "0;1", "high"), FlowError, "seeds like 0,1"),
        ((NAMES, [], "0", "urgent"), FlowError, "'urgent'; allowed are high and normal"),
        ((NAMES, ["train.batch=8,none"], "0", "high"), ConfigurationError, "train.batch is 'none'"),
        ((["v3/tiny"], [], "0", "high"), ConfigurationError, "is no VERSION"),
    ],
)
def test_one_wrong_value_refuses_all(arguments, error, says) -> None:
    with pytest.raises(error, match=says):
        products.requests(*arguments)
