"""Answers are counted and timed; kept ones stand for those of the untrained network."""

from typing import Any

import numpy as np
import pandas as pd

from model.config.evaluation import EarlyStop
from model.config.experiment import Experiment
from tasks.benchmark import answering
from tasks.benchmark.answering import Answering
from tests.support.benchmark import CPU, Clock


def test_answers_are_counted_and_timed_after_a_first_time(subject: Experiment, monkeypatch: Any) -> None:
    monkeypatch.setattr(answering, "time", Clock())
    profiled: list[int] = []
    monkeypatch.setattr(answering, "show_profile", lambda work, device, calls: profiled.append(calls))
    votes = subject.evaluations["votes"]
    assert answering.answering(subject, CPU, Answering("votes", 2), True) == [
        {
            "grids": 2,
            "answers": 2 * votes.views,
            "views": votes.views,
            "steps": votes.steps,
            "stop": None,
            "seconds_first": 1.0,
            "seconds": 1.0,
            "grids_per_s": 2.0,
        }
    ]
    assert profiled == [1]


def test_kept_answers_decide_when_votes_stop_and_at_which_sizes(subject: Experiment, monkeypatch: Any) -> None:
    """Task a: all views agree, decided once half of them have; b: no two agree, all views are asked."""
    count = subject.evaluations["votes"].views
    one = [{"task": "a", "test": 1, "view": v, "attempt": 0, "grid": np.zeros((2, 3), np.uint8)} for v in range(count)]
    many = [{**row, "task": "b", "test": 0, "grid": np.full((1, i + 1), 5, np.uint8)} for i, row in enumerate(one)]
    assert count <= 30
    asked: list[tuple[int, int]] = []
    real = answering.AsKept._denoise

    def spy(self: Any, queries: Any, sizes: Any, config: Any) -> Any:
        asked.extend(sizes)
        return real(self, queries, sizes, config)

    monkeypatch.setattr(answering.AsKept, "_denoise", spy)
    stop = EarlyStop(round=1, attempts=1, swing=1.0)
    whole, stopped = answering.answering(
        subject, CPU, Answering("votes", like=pd.DataFrame(one + many), stops=[stop]), False
    )
    assert (whole["grids"], whole["answers"], whole["stop"]) == (2, 2 * count, None)
    assert (stopped["answers"], stopped["stop"]) == (count // 2 + count, "1,1,1")
    assert set(asked) == {(2, 3)} | {(1, i + 1) for i in range(count)}
