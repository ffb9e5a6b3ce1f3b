"""The buttons Suspend and Resume of Prefect's page: a suspended run saves, gives its slot back, and goes on later."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model.training import resume_states
from tests.support.flows_lab import (
    ACTIVE,
    LONG,
    SHORT,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]


def suspend(lab: Lab, run: str, seconds: int = 20) -> None:
    """What the page sends; it offers 300 s and allows 5, after which Prefect fails a run that was not resumed."""
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    details = {"pause_timeout": end.isoformat(), "pause_reschedule": True}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    answer = lab.api(f"/flow_runs/{run}/set_state", {"state": state})
    assert answer["status"] == "ACCEPT", answer


def suspended(lab: Lab, run: str) -> bool:
    """Whether it has ended and says how far it got."""
    name, message = lab.states(run)[-1]
    return name == "Suspended" and message.startswith("suspended in train, after update ")


def resume(lab: Lab, run: str) -> None:
    """What the page sends."""
    answer = lab.api(f"/flow_runs/{run}/resume")
    assert answer["status"] == "ACCEPT", answer


def scratch(lab: Lab) -> Path:
    """Of the only training."""
    [folder] = [path for path in lab.folder.glob(".scratch/train/*") if path.is_dir()]
    return folder


def test_a_suspended_run_saves_gives_its_slot_back_and_resumes(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 20, 120)
    [other] = lab.queue(SHORT, "--seeds", "1")
    suspend(lab, run)
    until(lambda: not lab.processes(run), 60)
    until(lambda: suspended(lab, run), 30)
    saved = lab.saved()
    assert saved >= lab.step(run) > 0
    state = resume_states.newest(scratch(lab))
    assert state
    assert resume_states.step_of(state) == saved
    assert lab.record(run, "stages")[-1]["outcome"] == "interrupted"
    assert not lab.record(run, "deaths")
    lab.finish(other)  # It got the slot.
    assert lab.state(other) == "COMPLETED"
    assert not {row["state"]["type"] for row in lab.tasks(run)} & set(ACTIVE)

    # Prefect would have failed it by now; a new worker keeps what it needs.
    lab.arc("worker", "--stop")
    lab.start_worker()
    assert suspended(lab, run)
    listed = [line for line in lab.arc("queue", "--list").splitlines() if run[:8] in line]
    assert "Suspended" in listed[0]
    assert (lab.folder / ".scratch" / "worktrees" / run).exists()
    resume(lab, run)
    until(lambda: lab.resumed_from(run), 120)
    assert lab.resumed_from(run) == saved
    until(lambda: lab.step(run) > saved, 60)
    assert not [line for line in lab.log(run) if "damaged" in line]
    lab.arc("queue", "--cancel", run[:8])
    until(lambda: lab.state(run) == "CANCELLED", 90)


def test_a_run_resumed_while_it_saves_or_cancelled_while_suspended(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 20, 120)
    training = lab.training(run)[0]
    training.suspend()  # It cannot save yet.
    suspend(lab, run, 300)
    until(lambda: [1 for name, text in lab.states(run) if name == "Suspended" and text.startswith("it saves")], 30)
    resume(lab, run)
    training.resume()
    until(lambda: lab.resumed_from(run), 120)
    assert not lab.record(run, "deaths")

    suspend(lab, run, 300)
    until(lambda: suspended(lab, run), 60)
    until(lambda: not lab.processes(run), 60)
    answer: Any = lab.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})  # As the page does.
    assert answer["state"]["type"] == "CANCELLED"
    until(lambda: not (lab.folder / ".scratch" / "worktrees" / run).exists(), 60)
    until(lambda: [status for _, status in lab.mlflow()] == ["KILLED"], 60)
    assert lab.saved() > 0


def test_prefect_refuses_to_suspend_what_does_not_run(lab: Lab) -> None:
    lab.only("params")
    [run] = lab.queue(SHORT)
    state = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
    answer = lab.api(f"/flow_runs/{run}/set_state", {"state": state})
    assert answer["status"] == "REJECT"
    assert answer["details"]["reason"] == "Cannot suspend flows that are not currently running."
    assert lab.state(run) == "SCHEDULED"
