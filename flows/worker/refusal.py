"""Which runs of our pool the worker executes: those of our deployment, with our code and nothing else.

Whoever can write to the server could otherwise name a command, an entry point or a pull step, and the worker would
execute it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from flows.queue import admission, deployment

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
