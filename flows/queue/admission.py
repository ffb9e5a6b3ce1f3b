"""Admission of runs queued in Prefect's UI: the worker validates them, freezes the code and sets their queue."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Failed, Scheduled

from flows.cluster import exchange
from flows.queue import flow_runs
from flows.queue.deployment import queue_of
from flows.runs import places, snapshots
from flows.runs.places import FlowError, one_line
from flows.runs.request import Request, parse

COMMIT = "ARC_COMMIT"
GENERATED = re.compile(r"[a-z]+-[a-z]+")
"""A name that the form proposes, such as brave-lion: the title of the request replaces it."""
AHEAD = timedelta(days=1)
"""By how much a run of priority high from the form is put before the others of its queue."""
DIGEST = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
"""A commit's name in git, SHA-1 or SHA-256."""


def commit_of(run: Any) -> str | None:
    """The frozen commit of a run, from its job variables; None for a run that is not frozen yet."""
    environment = run.job_variables.get("env") if isinstance(run.job_variables, dict) else None
    commit = environment.get(COMMIT) if isinstance(environment, dict) else None
    return commit if isinstance(commit, str) else None


def variables(commit: str) -> dict[str, Any]:
    """Job variables that hold the frozen commit."""
    return {"env": {COMMIT: commit}}


def foreign_variables(variables: Any, frozen: Collection[str]) -> str | None:
    """Why the job variables of a run are refused; None if they hold at most one of our frozen commits."""
    if not variables:
        return None
    environment = variables.get("env") if isinstance(variables, Mapping) else None
    if not isinstance(environment, Mapping) or set(variables) != {"env"} or set(environment) - {COMMIT}:
        return "it sets job variables, such as a command or its environment, which only the worker does"
    commit = environment.get(COMMIT)
    if commit is not None and not (isinstance(commit, str) and DIGEST.fullmatch(commit) and commit in frozen):
        return f"{COMMIT} is {commit!r:.60}, which is no commit that was frozen in this checkout"
    return None


def tags(request: Request, snapshot: snapshots.Snapshot) -> list[str]:
    """By these the page filters runs: version, size, data set and commit."""
    named = [f"{kind}:{getattr(request, kind)}" for kind in ("version", "size", "dataset")]
    return [*named, tag_of(snapshot.commit)]


def tag_of(commit: str) -> str:
    """The tag of the runs with this frozen commit."""
    return f"code:{commit[:8]}"


def create(
    connection: SyncPrefectClient,
    deployment: Any,
    request: Request,
    snapshot: snapshots.Snapshot,
    scheduled_time: Any,
    name: str | None = None,
    replaces: Any = None,
) -> Any:
    """Create a run in the queue of its priority, to start at `scheduled_time`; it is named by its title, or `name`.

    Prefect cannot move a run to another queue, so an identical run `replaces` it: the same one, however often this is
    tried until the old one is deleted.
    """
    return connection.create_flow_run_from_deployment(
        deployment,
        parameters={"request": _document(request)},
        name=name or request.title,
        tags=tags(request, snapshot),
        state=Scheduled(scheduled_time=scheduled_time),
        work_queue_name=queue_of(request.priority, request.machine),
        job_variables=variables(snapshot.commit),
        idempotency_key=f"instead-of-{replaces.id}" if replaces else None,
    )


def _document(request: Request) -> dict[str, Any]:
    """The request as parameters; code that was frozen before there were kinds of machines knows no `machine`."""
    return request.model_dump(mode="json", exclude={"machine"} if request.machine == "any" else None)


def admit(connection: SyncPrefectClient) -> list[str]:
    """Admit every waiting run that is not frozen yet. Returns a log line for each action.

    A run that cannot be read fails; one that cannot be frozen stays for the next call. Neither stops the others.
    """
    log = []
    for run in flow_runs.runs(connection, StateType.SCHEDULED):
        if commit_of(run) or run.deployment_id is None:
            continue
        try:
            log += _admit(connection, run)
        except ObjectNotFound:
            continue  # It was deleted meanwhile.
        except (FlowError, PrefectException, httpx.HTTPError, OSError) as error:
            log.append(f"{one_line(run.name)}: not admitted yet: {one_line(error)}")
    return log


def _admit(connection: SyncPrefectClient, run: Any) -> list[str]:
    request = None
    try:
        why = foreign_variables(run.job_variables, ())
        request = parse(run.parameters)
    except Exception as error:  # Anybody may have typed anything; whatever it raises is about this run only.
        why = one_line(error)
    if why or request is None:
        message = why if str(why).startswith("refused: ") else f"refused: {why}"
        connection.set_flow_run_state(run.id, Failed(message=message), force=True)
        return [f"{one_line(run.name)}: {message}"]
    [snapshot] = snapshots.freeze([request], places.home())
    exchange.share_frozen([snapshot.commit])
    start, moment = run.next_scheduled_start_time, datetime.now().astimezone()
    name = request.title if GENERATED.fullmatch(run.name) else run.name
    if request.machine != "any" or (request.priority == "high" and start and start > moment):
        create(connection, run.deployment_id, request, snapshot, start or moment, name, replaces=run)
        connection.delete_flow_run(run.id)
    else:
        # In place, so that the page of the run that the form leads to stays.
        connection.update_flow_run(
            run.id,
            name=name,
            tags=[*run.tags, *(tag for tag in tags(request, snapshot) if tag not in run.tags)],
            job_variables=variables(snapshot.commit),
        )
        if request.priority == "high":
            # It is in the queue of the deployment, where the earliest run is the first.
            first: State[Any] = Scheduled(scheduled_time=moment - AHEAD, message="priority high")
            connection.set_flow_run_state(run.id, first, force=True)
    shown = one_line(name)  # A person may have typed it.
    log = [f"{shown}: frozen as {snapshot.commit[:8]}, priority {request.priority}"]
    return [*log, f"{shown}: {snapshot.warning}"] if snapshot.warning else log
