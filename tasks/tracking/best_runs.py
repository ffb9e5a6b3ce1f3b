"""Which run is the best of its version and data set: a tag, by which the view `versions` shows one run of each."""

from typing import Any

from tasks.tracking import view

FINISHED = "tags.`arc.run` = 'experiment' and attributes.status = 'FINISHED'"
HIGHEST_FIRST = (f"metrics.`{view.METRIC}` DESC", "attributes.start_time ASC")


def mark(client: Any, experiment: str, version: str, dataset: str) -> None:
    """Give the tag to the run with the highest pass@2, the older one of equals, and take it from others.

    `experiment` is the id of the MLflow experiment; only finished runs that nobody deleted count.
    """
    group_filter = f"{FINISHED} and tags.`arc.version` = '{version}' and tags.`arc.dataset` = '{dataset}'"
    highest = client.search_runs([experiment], group_filter, order_by=list(HIGHEST_FIRST), max_results=1)
    for run in client.search_runs([experiment], f"{group_filter} and tags.`{view.BEST}` != ''"):
        if run.info.run_id not in {best.info.run_id for best in highest}:
            client.delete_tag(run.info.run_id, view.BEST)
    for run in highest:
        if view.METRIC in run.data.metrics:
            client.set_tag(run.info.run_id, view.BEST, f"{version} {dataset}")


def mark_all(client: Any, experiment: str) -> None:
    """The same for every version and data set of the experiment."""
    runs = client.search_runs([experiment], FINISHED, max_results=50_000)
    names = {(run.data.tags.get("arc.version"), run.data.tags.get("arc.dataset")) for run in runs}
    for version, dataset in sorted((v, d) for v, d in names if v and d):
        mark(client, experiment, version, dataset)
