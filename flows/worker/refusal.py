"""Which runs of our pool the worker executes: those of our deployment, with our code and nothing else.

Whoever can write to the server could otherwise name a command, an entry point or a pull step, and the worker would
execute it.
"""

import functools
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.exceptions import PrefectException
from prefect.states import Failed

from flows.queue import admission, deployment, other_workers

CODE = ("pull_steps", "job_variables", "path", "storage_document_id", "infrastructure_document_id")
"""Fields of a deployment that change what is executed; ours are empty."""


def reason(run: Any, its_deployment: Any | None, template: Mapping[str, Any], frozen: Collection[str]) -> str | None:
    """Why the worker refuses a run; None if it may run.

    `its_deployment` is None for a run without one, `template` is the job template of the pool, and `frozen` are the
    commits of this checkout that `arc queue` or the worker has frozen.
    """
    if its_deployment is None:
        return "it belongs to no deployment; queue it with `arc queue` or the form"
    if run.deployment_id != its_deployment.id or its_deployment.name != deployment.DEPLOYMENT:
        return f"it belongs to the deployment {its_deployment.name!r}; this worker executes {deployment.DEPLOYMENT!r}"
    if its_deployment.entrypoint != deployment.ENTRYPOINT:
        return f"the deployment's entry point is {its_deployment.entrypoint!r}; ours is {deployment.ENTRYPOINT!r}"
    if foreign := [name for name in CODE if getattr(its_deployment, name, None)]:
        return f"the deployment sets {', '.join(foreign)}, which ours does not; `arc worker` makes it again"
    if template != deployment.template():
        return f"the job template of the pool {deployment.POOL} was changed; `arc worker` resets it"
    return admission.foreign_variables(run.job_variables, frozen)


def choose(runs: list[Any], template: dict[str, Any], count: int) -> set[UUID]:
    """Ids of the first `count` runs that this worker executes. Those before them that it does not execute fail."""
    chosen = set[UUID]()
    if not runs:
        return chosen
    with deployment.kept_client() as connection:
        frozen, away = other_workers.frozen(runs)
        read = functools.cache(connection.read_deployment)
        for run in (run for run in runs if run.id not in away):
            if len(chosen) == count:
                break
            try:
                its_deployment = read(run.deployment_id) if run.deployment_id else None
                why = reason(run, its_deployment, template, frozen)
                if why:
                    connection.set_flow_run_state(run.id, Failed(message=f"refused: {why}"), force=True)
            except (PrefectException, httpx.HTTPError) as error:  # It was deleted, or the server is away.
                why = f"not yet, the server says {error}"
            if why:
                print(f"{run.name}: refused: {why}", flush=True)
            else:
                chosen.add(run.id)
    return chosen
