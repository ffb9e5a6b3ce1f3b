"""A training that watches itself: each guard against a fault that is injected, and against its own false alarms."""

import copy
import itertools
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.config.watch import Divergence, Stall, Watch
from model.training import resume_states, watch
from model.training.batches import Stream
from model.training.watch import LossRose, Watchdog, Watcher
from tests.conftest import experiment
from tests.support.small_training import dataset, run, training


def rows(*losses):
    return [{"step": float(10 * (i + 1)), "loss": loss} for i, loss in enumerate(losses)]


def test_a_divergence_is_a_loss_above_the_factor_times_the_median_of_the_rows_before():
    config = Divergence(factor=3.0, rows=4, then="stop")
    draws = np.random.default_rng(0)
    losses = np.exp(draws.normal(size=300)).tolist()
    found = [watch.divergence(rows(*losses[: i + 1]), config) is not None for i in range(300)]
    wanted = [i >= 4 and losses[i] > 3 * np.median(losses[i - 4 : i]) for i in range(300)]
    assert found == wanted
    assert 10 < sum(found) < 290
    assert watch.divergence(rows(1, 1, 1, 1, 3.0), config) is None
    assert watch.divergence(rows(1, 1, 1, 1, 3.1), config) == (
        "update 50: loss 3.1 is more than 3 times 1, the median of the 4 rows before"
    )


def watched(then, **changes):
    """A watcher of a training of no content, its training, and what it told."""
    config = Watch(
        divergence=Divergence(factor=2.0, rows=3, then=then), stall=Stall(seconds=9.0, then=then), out_of_memory="halve"
    )
    workers, told = SimpleNamespace(count=1), []
    subject = SimpleNamespace(history=[], step=7, workers=workers, config=SimpleNamespace(batch=8))
    watcher = Watcher(subject, config.model_copy(update=changes), told.append, lambda text: told.append(f"end: {text}"))
    return watcher, subject, told


def test_a_rising_loss_ends_the_training_or_is_told_once_each_time():
    watcher, subject, _ = watched("stop")
    subject.history = rows(1, 1, 1, 5)
    with pytest.raises(LossRose, match=r"update 40: loss 5 is more than 2 times 1, .*; the training diverged. Lower"):
        watcher.row()
    watcher, subject, told = watched("go-on")
    history = rows(1, 1, 1, 5, 5, 1, 1, 1, 5)
    for i in range(len(history)):
        subject.history = history[: i + 1]
        watcher.row()
    assert [text.split(":")[0] for text in told] == ["update 40", "update 90"]


def test_memory_is_tried_again_where_it_can_be():
    assert watched("stop")[0].may_halve()
    assert not watched("stop", out_of_memory="stop")[0].may_halve()
    for key, value in (("workers", SimpleNamespace(count=2)), ("config", SimpleNamespace(batch=7))):
        watcher, subject, _ = watched("stop")
        setattr(subject, key, value)
        assert not watcher.may_halve()


def test_a_stall_is_told_once_and_not_for_a_pause_or_a_process_that_slept():
    now, told = [0.0], []
    dog = Watchdog(10.0, lambda seconds, place: told.append((seconds, place)), lambda: now[0])

    def after(seconds):
        for _ in range(round(4 * seconds)):
            now[0] += 0.25
            dog.look()

    after(9)
    dog.update()
    after(9.5)
    assert told == []
    after(20)
    assert len(told) == 1
    assert told[0][0] == 10.0
    dog.update()
    with dog.paused():
        after(100)
    after(9.5)
    assert len(told) == 1
    dog.update()
    now[0] += 1e6  # The machine slept.
    dog.look()
    after(7)
    assert len(told) == 1
    after(4)
    assert len(told) == 2


@pytest.mark.slow
@pytest.mark.parametrize("then", ["stop", "go-on"])
def test_a_source_of_batches_that_sleeps_is_a_stall(then, monkeypatch):
    subject = training(experiment().train)
    watcher, _, told = watched(then, stall=Stall(seconds=0.2, then=then))
    watcher.training = subject
    batches = Stream.batches

    def slow(*arguments):
        for i, batch in enumerate(batches(*arguments)):
            if i == 5:
                time.sleep(0.8)
            yield batch

    monkeypatch.setattr(Stream, "batches", slow)

    def stop():
        watcher.update()
        return False

    update = subject.update
    monkeypatch.setattr(subject, "update", lambda rows: (watcher.update(), update(rows)))
    watcher.start()
    subject.run(on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=stop)
    watcher.stop()
    assert len(told) == 1
    assert told[0].startswith("end: " if then == "stop" else "no update")
    assert "no update for 0 s after update 5; the training is at " in told[0]
    assert f"{__file__}:" in told[0]
    assert ", slow" in told[0]


@pytest.mark.slow
def test_half_the_micro_batch_and_twice_the_accumulation_make_as_many_examples_an_update():
    """But for the rounding of a batch's rows to multiples of 128, which is little of 1024 examples."""
    whole = experiment(train={"batch": 1024}).train
    half, data, means = watch.halved(whole), dataset(), []
    assert (half.batch, half.accumulation) == (512, 2)
    for config in (whole, half):
        batches = Stream(data.pairs, data.views, np.ones(18), config.batch, 1, 0).batches()
        sizes = [len(rows) for rows in itertools.islice(batches, 40 * config.accumulation)]
        means.append(sum(sizes) / 40)
    assert means[0] == pytest.approx(1024, rel=0.05)
    assert means[1] == pytest.approx(means[0], rel=0.02)


def gradients(config, updates):
    """(updates, parameters): the gradients of so many updates at the first weights, which are never changed."""
    subject, found = training(config), []
    subject.apply = lambda: found.append(subject.gradient.clone())
    batches = subject.stream.batches()
    for _ in range(updates):
        subject.update([next(batches) for _ in range(config.accumulation)])
    return torch.stack(found).double()


@pytest.mark.slow
def test_the_gradient_is_the_same_in_expectation():
    config, updates = experiment(train={"batch": 64}).train, 30
    whole, half = gradients(config, updates), gradients(watch.halved(config), updates)
    noise = (whole.var(0).sum() + half.var(0).sum()) / updates

    def distance(factor):
        return float((whole.mean(0) - factor * half.mean(0)).square().sum() / noise)

    assert distance(1.0) < 2  # 1 is expected.
    assert distance(0.5) > 10  # A gradient of another scale would be seen.
    assert distance(2.0) > 10


@pytest.mark.slow
def test_it_goes_on_from_a_state_with_new_examples_and_resumes_as_any_training(tmp_path):
    config = experiment(train={"batch": 16, "optimizer_steps": 40, "log_every": 4}).train
    first = run(training(config), until=6)
    tensors, plain = copy.deepcopy(first.state())
    writer = resume_states.Writer(tmp_path, "code")
    writer.save(tensors, {**plain, "halved_after": None})
    writer.wait()
    assert watch.load(training, config, tmp_path, halve=False)[1] is None
    subject, since = watch.load(training, config, tmp_path, halve=True)
    assert since == subject.step == 6
    assert subject.config == watch.halved(config)
    assert all(torch.equal(a, b) for a, b in zip(subject.network.parameters(), first.network.parameters(), strict=True))
    begin, place = subject.step * 2, subject.stream.place
    assert place == (first.stream.place.chunk + 1, begin)
    assert next(subject.stream.batches(begin, place)) != next(training(subject.config).stream.batches(begin))

    whole = run(subject)
    assert [row["step"] for row in whole.history] == list(range(4, 41, 4))
    broken = run(watch.load(training, config, tmp_path, halve=True)[0], until=11)
    tensors, plain = copy.deepcopy(broken.state())
    writer.save(tensors, {**plain, "halved_after": 6})
    writer.wait()
    resumed, since = watch.load(training, config, tmp_path, halve=False)
    assert since == 6
    assert resumed.step == 11
    run(resumed)
    assert json.dumps(resumed.history) == json.dumps(whole.history)
    assert all(torch.equal(a, b) for a, b in zip(resumed.network.parameters(), whole.network.parameters(), strict=True))
