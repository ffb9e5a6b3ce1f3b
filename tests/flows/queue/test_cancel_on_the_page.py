"""The button Cancel of Prefect's page in Debian's chromium: a run saves and ends, and resumes when queued again."""

import pytest
from playwright.sync_api import Page, expect

from model.training import resume_states
from tests.support.browser import browser, log_in
from tests.support.flows_lab import (
    ACTIVE,
    LONG,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]
SAVED_FILE = '        raise OSError(f"{part} cannot be written: {error}") from error\n'
"""The line after which a state is written but not yet in its place."""
SLOW_DISK = "    __import__('time').sleep(4)\n"


def cancel(page: Page, lab: Lab, run: str) -> None:
    """Press the button and confirm."""
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Confirm", exact=True).click()
    until(lambda: lab.state(run) not in ("RUNNING", "PENDING"), 30)


def slow_down_saves(lab: Lab) -> None:
    """Have every save stand half written for four seconds."""
    module = lab.folder / "model" / "training" / "resume_states.py"
    text = module.read_text()
    assert text.count(SAVED_FILE) == 1
    module.write_text(text.replace(SAVED_FILE, SAVED_FILE + SLOW_DISK))
    lab.commit("slow saves")


@pytest.mark.parametrize("during_a_save", [False, True])
def test_a_run_cancelled_on_the_page_ends_saved_and_resumes(lab: Lab, during_a_save: bool) -> None:
    if during_a_save:
        slow_down_saves(lab)
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 20 and lab.saved(), 120)
    with browser() as page:
        log_in(page, lab)
        page.goto(f"http://127.0.0.1:{lab.port}/runs/flow-run/{run}")
        expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible(timeout=60_000)
        before = lab.saved()
        if during_a_save:
            until(lambda: [*lab.folder.glob(".scratch/train/*/state.part")], 60, every=0.05)
        cancel(page, lab, run)
        until(lambda: not lab.processes(run), 60)
        until(lambda: lab.state(run) == "CANCELLED", 35)
        expect(page.locator("body")).to_contain_text("Cancelled", timeout=60_000)

    saved = lab.saved()
    assert saved >= max(before, lab.step(run))
    assert not [*lab.folder.glob(".scratch/train/*/*.part")]
    [scratch] = lab.folder.glob(".scratch/train/*")
    state = resume_states.newest(scratch)
    assert state
    assert resume_states.step_of(state) == saved
    _, plain = resume_states.read(state)
    assert plain["step"] == saved
    assert lab.record(run, "stages")[-1]["outcome"] == "interrupted"
    assert not {row["state"]["type"] for row in lab.tasks(run)} & set(ACTIVE)
    until(lambda: not (lab.folder / ".scratch" / "worktrees" / run).exists(), 60)
    until(lambda: [status for _, status in lab.mlflow()] == ["KILLED"], 60)

    [again] = lab.queue(LONG)
    until(lambda: lab.resumed_from(again), 120)
    assert lab.resumed_from(again) == saved
    assert not [line for line in lab.log(again) if "damaged" in line]
