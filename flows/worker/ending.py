"""What is due when a run has ended: resume it or let it rest, tell MLflow and whoever wants to know, tidy up."""

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from flows.runs import interruption, places, snapshots
from flows.worker import notification, overnight, recovery

MLFLOW = {StateType.CANCELLED: "KILLED", StateType.FAILED: "FAILED"}
"""What MLflow calls a run that ended without a result."""


def after(connection: SyncPrefectClient, run: UUID) -> list[str]:
    """Look at a run whose processes have ended, whatever their end looked like to Prefect; says what it did."""
    found = connection.read_flow_run(run)
    assert found.state
    told = []
    if recovery.asked_to_end(connection, run):
        if found.state.type not in (StateType.CANCELLED, StateType.COMPLETED):
            recovery.cancelled(connection, run)
    elif found.state.type == StateType.CRASHED:
        told.append(recovery.resume(connection, run, found.name, found.state.message or "killed"))
    close(connection, run)
    return told


def close(connection: SyncPrefectClient, run: UUID) -> None:
    """Let a run rest that has ended for good: no task of it is shown as running, and its worktree is gone."""
    found = connection.read_flow_run(run)
    assert found.state
    kind, message = found.state.type, found.state.message or "killed"
    if kind not in overnight.ENDED:
        return  # It goes on.
    if kind in MLFLOW:
        recovery.end_tasks(connection, run, message)
        interruption.publish(str(run), places.worktree_of(str(run)), MLFLOW[kind], message)
    overnight.publish(connection, overnight.rows(connection, overnight.since(overnight.HOURS)))
    notification.send(f"{found.name}: {found.state.name}", message)
    snapshots.remove(str(run))
