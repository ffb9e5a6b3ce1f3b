"""The experiment in a real store: its saved view, and the runs that are older than it."""

import pytest

from tasks.common.stage import StageError
from tasks.tracking import mlflow_runs, view
from tests.support.stored import client, made_store, place  # noqa: F401


def test_the_experiment_has_the_view_and_a_deleted_one_is_told(place, client) -> None:
    number = mlflow_runs.experiment_id(client, place, "x")
    client.set_experiment_tag(number, view.TAG, "older")
    assert mlflow_runs.experiment_id(client, place, "x") == number
    assert client.get_experiment(number).tags[view.TAG] == view.tag()
    client.delete_experiment(number)
    with pytest.raises(StageError, match=f"restore --experiment-id {number}"):
        mlflow_runs.experiment_id(client, place, "x")


def test_runs_older_than_the_view_get_what_it_sorts_by(place, client) -> None:
    number = mlflow_runs.experiment_id(client, place, "x")
    client.set_experiment_tag(number, view.TAG, "older")

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
    client.set_experiment_tag(number, view.TAG, "older")
    mlflow_runs.experiment_id(client, place, "x")
    assert logged(older) == [0.5], "once"
