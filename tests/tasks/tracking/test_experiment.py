"""The experiment in a real store: its saved views, and the runs that are older than it."""

import random

import pytest

from tasks.common.stage import StageError
from tasks.tracking import best_runs, mlflow_runs, view
from tests.support.stored import client, made_store, place  # noqa: F401


def test_the_experiment_has_the_view_and_a_deleted_one_is_told(place, client) -> None:
    number = mlflow_runs.experiment_id(client, place, "x")
    for tag in view.tags():
        client.set_experiment_tag(number, tag, "older")
        assert mlflow_runs.experiment_id(client, place, "x") == number
        assert client.get_experiment(number).tags.items() >= view.tags().items()
    client.delete_experiment(number)
    with pytest.raises(StageError, match=f"restore --experiment-id {number}"):
        mlflow_runs.experiment_id(client, place, "x")


def test_runs_older_than_the_view_get_what_it_sorts_by(place, client) -> None:
    number = mlflow_runs.experiment_id(client, place, "x")
    client.set_experiment_tag(number, next(iter(view.tags())), "older")

    def add(metrics: dict[str, float], **tags: str) -> str:
        run = client.create_run(number, tags={key.replace("_", ".", 1): value for key, value in tags.items()}).info
        for name, value in metrics.items():
            client.log_metric(run.run_id, name, value)
        client.set_terminated(run.run_id)
        return str(run.run_id)

    both = {"pass_at_2/best-votes": 0.25, "pass_at_2/final-votes": 0.5}
    headline = "final-votes 50.0 [25.0–75.0]"
    older = add(both, arc_run="experiment", arc_pass_at_2=headline)
    newer = add({**both, view.METRIC: 0.75}, arc_run="experiment", arc_pass_at_2=headline)
    without = [add(both, arc_run="experiment"), add({}, arc_run="experiment", arc_pass_at_2=headline)]
    evaluation = add(both, arc_run="evaluation", arc_pass_at_2=headline)
    mlflow_runs.experiment_id(client, place, "x")

    def logged(run: str) -> list[float]:
        return [point.value for point in client.get_metric_history(run, view.METRIC)]

    assert [logged(run) for run in (older, newer, *without, evaluation)] == [[0.5], [0.75], [], [], []]
    order = client.search_runs([number], "", order_by=[f"metrics.`{view.METRIC}` DESC"])
    assert [run.info.run_id for run in order][:2] == [newer, older]
    assert {run.info.status for run in order} == {"FINISHED"}
    client.set_experiment_tag(number, next(iter(view.tags())), "older")
    mlflow_runs.experiment_id(client, place, "x")
    assert logged(older) == [0.5], "once"


def test_the_tag_of_the_best_run_of_a_version_moves(place, client) -> None:
    """Told by brute force over random runs, after each of them: the highest, of equals the older one."""
    number = mlflow_runs.experiment_id(client, place, "x")
    draws, made = random.Random(5), []
    for start in range(14):
        version, dataset, score = (
            draws.choice(["v1", "v2"]),
            draws.choice(["aa1", "aa2"]),
            draws.choice([0.1, 0.2, 0.3]),
        )
        tags = {"arc.run": "experiment", "arc.version": version, "arc.dataset": dataset}
        run = client.create_run(number, start_time=start, tags=tags).info.run_id
        client.log_metric(run, view.METRIC, score)
        client.set_terminated(run)
        made.append((run, version, dataset, score))
        if start == 9:
            deleted = max(made, key=lambda one: one[3])
            client.delete_run(deleted[0])
            made.remove(deleted)
            best_runs.mark_all(client, number)
        best_runs.mark(client, number, version, dataset)
        expected: dict[str, tuple[str, float]] = {}
        for run, v, d, score in made:
            if score > expected.get(f"{v} {d}", ("", 0.0))[1]:
                expected[f"{v} {d}"] = run, score
        tagged = client.search_runs([number], view.VIEWS["versions"])
        assert {run.data.tags[view.BEST]: run.info.run_id for run in tagged} == {
            k: run for k, (run, _) in expected.items()
        }
        assert len(tagged) == len(expected)
    unscored = client.create_run(number, tags={"arc.run": "experiment", "arc.version": "v9", "arc.dataset": "aa1"})
    client.set_terminated(unscored.info.run_id)
    client.create_run(number, tags={"arc.run": "live", "arc.version": "v9", "arc.dataset": "aa1"})
    best_runs.mark(client, number, "v9", "aa1")
    assert len(client.search_runs([number], view.VIEWS["versions"])) == len(tagged)
