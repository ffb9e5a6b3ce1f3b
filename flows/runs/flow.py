"""One experiment as a Prefect flow: one task for each DVC stage, in DVC's order, in the current checkout.

DVC does the work: the flow calls `dvc repro` for each stage, forwards its log, and shows progress and results.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from flows.runs import calm_log, failure_reasons, interruption, places, processes, records, snapshots
from flows.runs.places import FlowError
from flows.runs.progress import Progress
from flows.runs.request import Request
from flows.runs.stage_process import TRAIN, Outcome, helping, run_stage, stage_names
from model.scoring.wording import caveats
from model.storage import atomic
from tasks.common import paths
from tasks.common.documents import read_json
from tasks.common.stage import StageError
from tasks.files.live import RUN_VARIABLE
from tasks.servers import ui
from tasks.tracking import mlflow_runs, store, view

FLOW_NAME = "experiment"
CACHED = "Cached"
"""Name of the state of a stage whose result DVC had already."""
NODES = "nodes.json"
"""File in the frozen code of a run that helps another machine's training: variables that say which and how."""


class StageFailed(FlowError):
    """A stage failed; the message gives its name and the reason."""


class DiskFull(StageFailed):
    """The disk was full. The run is resumed once there is space."""


@flow(name=FLOW_NAME, persist_result=False, retries=0)
def experiment(request: Request) -> State[None] | None:
    """Run one experiment: data, training, checkpoint selection, and every evaluation of the matrix.

    Args:
        request: The experiment, by its names in presets.yaml, with overrides.
    """
    run, worktree, logger = str(flow_run.id), Path.cwd(), get_run_logger()
    os.environ[RUN_VARIABLE] = run
    calm_log.install()
    processes.record(run, os.getpid())
    logger.info("%s in %s, code of %s", request.title, worktree, os.environ.get("ARC_COMMIT", "this checkout"))
    try:
        # In the frozen code, not a parameter: whoever may queue must not tell a machine with whom it trains.
        if (nodes_file := worktree / NODES).exists():
            os.environ.update(read_json(nodes_file))
        run_stages(run)
        if helping():
            return Completed(message="it helped the training of another machine")
        copy_scores(request, worktree, run)
        branch = snapshots.commit_results(request, worktree)
        (places.folder_of(run) / snapshots.BRANCH).write_text(branch)
    except DiskFull as error:
        return Crashed(message=str(error))
    except FlowError as error:  # Returned, not raised: Prefect would wrap the message of an exception.
        return Failed(message=str(error))
    except OSError as error:  # From files that the flow itself writes.
        message = failure_reasons.of_file_error(error)
        return Crashed(message=message) if message.startswith(failure_reasons.FULL) else Failed(message=message)
    logger.info("committed to %s: `arc restore %s` restores it", branch, branch)
    _name_branch_in_mlflow(worktree, branch)
    _warn_if_unreachable(lambda: show_results(request, worktree, branch, run))
    return None


def run_stages(run: str) -> None:
    """Run every stage in DVC's order. Raises StageFailed."""
    states: dict[str, State[Any]] = {}
    for stage, needed in stage_names():
        upstream = [states[name] for name in needed]
        step = stage_task.with_options(name=stage, task_run_name=stage)
        states[stage] = step(stage, run, wait_for=upstream, return_state=True)
        if not states[stage].is_completed():
            message = states[stage].message or f"{stage}: failed"
            raise (DiskFull if failure_reasons.FULL in message else StageFailed)(message)
        if stage == TRAIN and helping():
            return
    if "publish" not in states or states["publish"].name != CACHED:
        return
    # A result from DVC's cache may have been published to another MLflow store than this one.
    done = subprocess.run(
        [sys.executable, "-m", "tasks.publish", "--if-missing"],
        capture_output=True,
        text=True,
        env={**os.environ, **places.environment()},
    )
    if done.returncode:
        raise StageFailed(f"publish: {(done.stderr or done.stdout).strip()}")
    get_run_logger().info(done.stdout.strip())


@task(persist_result=False, cache_policy=NO_CACHE, retries=0)
def stage_task(stage: str, run: str) -> State[None]:
    """Run one stage. An expected failure is returned: Prefect logs a traceback of what is raised."""
    try:
        return _until_not_killed(stage, run)
    except StageFailed as error:
        return Failed(message=str(error))
    except OSError as error:  # From the records of the run.
        return Failed(message=f"{stage}: {failure_reasons.of_file_error(error)}")


def _until_not_killed(stage: str, run: str) -> State[None]:
    """Run a stage, again if it was killed, unless it was killed at the same update before. Raises StageFailed."""
    logger = get_run_logger()
    while True:
        progress = Progress(run, stage)

        def on_line(text: str, progress: Progress = progress) -> None:
            logger.info(text)
            progress.line()

        outcome, why = Outcome(), "interrupted"
        try:
            run_stage(stage, places.folder_of(run) / "events.jsonl", on_line, progress.event, outcome)
            why = failure_reasons.reason(outcome.failure, outcome.code, outcome.lines) if outcome.code else "done"
        finally:
            row = records.StageRecord(
                stage=stage,
                seconds=outcome.seconds,
                device_seconds=outcome.device_seconds,
                cached=outcome.cached,
                outcome=why,
            )
            records.add_stage(run, row)
        if not outcome.code:
            return Completed(name=CACHED if outcome.cached else "Completed", message=f"{outcome.seconds:.1f} s")
        if not failure_reasons.killed(outcome.code) or (stage == TRAIN and helping()):
            raise StageFailed(f"{stage}: {why}")
        if not records.add_death(run, f"{stage}: {why}"):
            raise StageFailed(
                f"{stage}: died twice at the same place, after update {records.progress(run).step}: {why}"
            )
        logger.warning("%s was killed; it resumes from its last save", stage)


def copy_scores(request: Request, worktree: Path, run: str) -> None:
    """Copy scores and key of the result to the run's records, where `arc night` reads them."""
    folder = places.folder_of(run) / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    (places.folder_of(run) / "title").write_text(request.title)
    for path in (worktree / paths.SCORES).glob("*.json"):
        atomic.copy(path, folder / path.name)
    if (worktree / paths.PUBLISHED).exists():
        atomic.copy(worktree / paths.PUBLISHED, folder.parent / paths.PUBLISHED.name)


def show_results(request: Request, worktree: Path, branch: str, run: str) -> None:
    """Create the Prefect artifacts of a finished run: its scores, and links to its report, MLflow run and branch."""
    table = [score_row(path) for path in sorted((worktree / paths.SCORES).glob("*.json"))]
    create_table_artifact(table, key="scores", description=f"{request.title}: pass@2 in percent")
    lines = [f"# {request.title}", "", f"- with its files in a folder of its own: `arc restore {branch}`"]
    if (worktree / paths.PAGE).exists():
        page = places.folder_of(run) / "report.html"
        page.write_bytes((worktree / paths.PAGE).read_bytes())
        lines.append(f"- report on this machine: `{page}`")  # Browsers open no file:// link of a page.
    lines += [f"- MLflow (`make ui`): {link}" for link in mlflow_links(worktree)]
    create_markdown_artifact("\n".join(lines), key="links", description="The report, the MLflow run, and the branch")


def score_row(path: Path) -> dict[str, Any]:
    """A score file as a table row; scores in percent."""
    score = read_json(path)
    low, high = score["ci95"]
    return {
        "evaluation": path.stem,
        "pass@2": round(100 * score["pass_at_2"], 1),
        "95 %": f"{100 * low:.1f} to {100 * high:.1f}",
        "grids": f"{score['grids_solved']} of {score['n_grids']}",
        "tasks": score["n_tasks"],
        "caveats": "; ".join(caveats(score)),
    }


def _name_branch_in_mlflow(worktree: Path, branch: str) -> None:
    """The branch exists only after the publication. The result stands without the tag, so an error is only logged."""
    file = worktree / paths.PUBLISHED
    try:
        if file.exists():
            mlflow_runs.set_branch(store.configured_store(), read_json(file)["key"], branch)
    except StageError as error:
        get_run_logger().warning("MLflow's run does not name its branch: %s", error)


def mlflow_links(worktree: Path) -> list[str]:
    """Links to the MLflow run of the published result and to its report; none if nothing was published."""
    file, place = worktree / paths.PUBLISHED, store.configured_store()
    published = mlflow_runs.run_of(place, read_json(file)["key"]) if file.exists() else None
    if not published:
        return []
    # A local store is shown by `make ui`; a tracking server has its own page.
    with mlflow_runs.mlflow_errors(place):
        interruption.connect(published[1])
    page = place.uri if place.uri.startswith("http") else f"http://127.0.0.1:{mlflow_port(place)}"
    report = view.artifact_page(page, *published, "report.html")
    return [
        f"[the run]({view.run_page(page, *published)})",
        f"[the report there]({report})",
        f"[all scores]({view.runs_page(page, published[0])})",
    ]


def mlflow_port(place: store.Store) -> int:
    """Port of the MLflow server of this store if one runs; else the one that `make ui` tries first."""
    return ui.running(ui.mlflow_page(place)) or places.mlflow_port()


def _warn_if_unreachable(show: Callable[[], None]) -> None:
    """Artifacts only display the result, so an unreachable server does not fail the run."""
    try:
        show()
    except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
        get_run_logger().warning("results are not shown because the server does not answer: %r", error)
