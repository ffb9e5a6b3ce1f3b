"""Real servers, workers and kills, each in a copy of the project of its own."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors import safe_open

from tasks.params import override
from tests.flows_lab import LONG, NAME, SHORT, Lab, until

pytestmark = [pytest.mark.slow, pytest.mark.night]
ACTIVE = ("RUNNING", "PENDING", "CANCELLING")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.stop()


def only_params(lab: Lab) -> None:
    """Leave the short stages up to `params`, for tests of the queue itself."""
    path = lab.folder / "dvc.yaml"
    project = yaml.safe_load(path.read_text())
    names = list(project["stages"])
    project["stages"] = {name: project["stages"][name] for name in names[: names.index("params") + 1]}
    path.write_text(yaml.safe_dump(project, sort_keys=False))
    lab.commit("short stages")


def training(lab: Lab, run: str) -> list[psutil.Process]:
    return [p for p in lab.processes(run) if p.cmdline()[1:3] == ["-m", "tasks.train"]]


def saved(lab: Lab) -> int:
    """Update of the resume state on the disk."""
    [path] = lab.folder.glob(".scratch/train/*/state.safetensors")
    with safe_open(path, framework="np") as file:
        return int(json.loads(file.metadata()["plain"])["step"])


def resumed_from(lab: Lab, run: str) -> int:
    lines = [line for line in lab.log(run) if "going on after update" in line]
    return int(lines[-1].split()[4]) if lines else 0


def test_high_goes_first_and_never_two_at_once(lab: Lab) -> None:
    only_params(lab)
    lab.start_worker()
    until(lambda: lab.api("/health", method="GET"), 60)
    first = lab.queue(SHORT, "--seeds", "0,1,2")
    [urgent] = lab.queue(SHORT, "--seeds", "3", "--priority", "high")
    most = 0

    def done() -> bool:
        nonlocal most
        states = [run["state"]["type"] for run in lab.runs()]
        most = max(most, sum(state in ("RUNNING", "PENDING") for state in states))
        return all(state in ENDED for state in states)

    until(done, 240)
    assert most == 1
    assert {run["state"]["type"] for run in lab.runs()} == {"COMPLETED"}
    starts = {run["id"]: run["start_time"] for run in lab.runs()}
    order = sorted(starts, key=lambda run: starts[run])
    assert [run for run in order if run != urgent] == first
    assert order.index(urgent) < 3, "it overtook at least the last"


def test_the_same_result_as_dvc_repro_from_the_cache_and_once_in_mlflow(lab: Lab) -> None:
    values: Any = dict(zip(("version", "size", "dataset"), NAME.split("/"), strict=True)) | {"seed": 0}
    for key, value in SHORT.items():
        values = override(values, f"{key}={value}")
    (lab.folder / "params.yaml").write_text("# by hand\n" + yaml.safe_dump(values))
    lab.sh("dvc", "repro")
    lab.commit("by hand")
    lock, before = (lab.folder / "dvc.lock").read_text(), lab.mlflow()
    lab.start_worker()
    [run] = lab.queue(SHORT)
    until(lambda: lab.state(run) in ENDED, 200)
    assert lab.state(run) == "COMPLETED"
    ran = [row["stage"] for row in lab.record(run, "stages") if not row["cached"]]
    assert ran in ([], ["publish"]), "publish asks the store itself whether it has the result"
    assert lab.mlflow() == before
    [branch] = [name for name in lab.sh("git", "branch", "--format=%(refname:short)").split() if name != "main"]
    assert lab.sh("git", "show", f"{branch}:dvc.lock") == lock
    scores = {path.name: path.read_text() for path in (lab.folder / "data" / "scores").iterdir()}
    lab.sh("rm", "-rf", "data/scores", "data/checkpoints")
    lab.sh("git", "switch", "-q", branch)
    lab.sh("dvc", "checkout")
    assert {path.name: path.read_text() for path in (lab.folder / "data" / "scores").iterdir()} == scores
    artifacts = {row["key"] for row in lab.api("/artifacts/latest/filter")}
    assert {"train", "scores", "links", "night"} >= artifacts >= {"scores", "links"}


def test_editing_the_code_after_submitting_changes_nothing(lab: Lab) -> None:
    only_params(lab)
    [run] = lab.queue(SHORT)
    for name in ("flows/experiment.py", "tasks/params.py", "dvc.yaml"):
        (lab.folder / name).write_text("this is broken ]")
    lab.commit("broken")
    lab.sh("git", "revert", "--no-edit", "HEAD")
    lab.start_worker()
    until(lambda: "working" in (lab.folder / "worker.log").read_text(), 60)
    for name in ("flows/experiment.py", "tasks/params.py", "dvc.yaml"):
        (lab.folder / name).write_text("this is broken ]")
    until(lambda: lab.state(run) in ENDED, 60)
    assert lab.state(run) == "COMPLETED", lab.states(run)


def test_cancelling_saves_frees_and_is_told_to_mlflow(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 100, 120)
    began = time.monotonic()
    lab.arc("queue", "--cancel", run[:8])
    until(lambda: not lab.processes(run), 35)
    seconds = time.monotonic() - began
    assert seconds < 35
    until(lambda: lab.state(run) == "CANCELLED", 35 - seconds)
    assert saved(lab) >= lab.step(run)
    until(lambda: (lab.folder / "mlflow.db").exists() and [status for _, status in lab.mlflow()] == ["KILLED"], 60)
    step = saved(lab)
    [again] = lab.queue(LONG)
    until(lambda: resumed_from(lab, again), 120)
    assert resumed_from(lab, again) == step


@pytest.mark.parametrize("victim", ["stage", "flow", "worker", "server", "all"])
def test_a_kill_costs_at_most_what_was_not_saved(lab: Lab, victim: str) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 200, 120)
    time.sleep(1.5)
    last = saved(lab)
    if victim == "stage":
        training(lab, run)[0].kill()
    elif victim == "flow":
        lab.process(run, "prefect.engine").kill()
    elif victim == "worker":
        lab.worker.kill()
    elif victim == "server":
        for process in [p for p in lab.processes() if "prefect" in p.cmdline() and "server" in p.cmdline()]:
            process.kill()
    else:
        for process in lab.processes():
            process.send_signal(signal.SIGKILL)
    if victim in ("worker", "all"):
        time.sleep(1)
        lab.start_worker()
    began = time.monotonic()
    if victim == "server":
        until(lambda: lab.state(run) == "RUNNING" and lab.step(run) > last + 200, 120)
        assert resumed_from(lab, run) == 0, "the run did not notice"
    else:
        until(lambda: resumed_from(lab, run), 120)
        assert resumed_from(lab, run) >= last
        assert len(lab.record(run, "deaths")) == 1
    print(f"{victim}: {time.monotonic() - began:.1f} s, saved {last}, resumed from {resumed_from(lab, run)}")
    until(lambda: len(training(lab, run)) == 1, 20)
    active = [row for row in lab.runs() if row["state"]["type"] in ACTIVE]
    assert [row["id"] for row in active] == [run]
    lab.arc("queue", "--cancel", run[:8])
    until(lambda: lab.state(run) == "CANCELLED" and not lab.processes(run), 60)


def test_twice_dead_at_the_same_step_is_left_failed(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue({**LONG, "train.log_every": 5000, "train.save_seconds": 300})
    for deaths in (1, 2):
        until(lambda: training(lab, run) and "device cpu taken" in lab.log(run)[-1], 120)
        training(lab, run)[0].kill()
        until(lambda n=deaths: len(lab.record(run, "deaths") or []) == n, 30)
    until(lambda: lab.state(run) == "FAILED", 60)
    message = lab.states(run)[-1][1]
    assert "died twice at the same place" in message
    assert "killed" in message
    until(lambda: not lab.processes(run), 10)


def test_a_full_disk_fails_with_its_reason_and_goes_on_when_there_is_room(lab: Lab) -> None:
    scratch = lab.folder / ".scratch" / "train"
    scratch.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(scratch)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        lab.start_worker()
        [run] = lab.queue(LONG)
        until(lambda: lab.step(run) >= 100 and list(scratch.glob("*/state.safetensors")), 120)
        with (scratch / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0" * 4096)
        until(lambda: lab.state(run) in ENDED, 60)
        name, message = lab.states(run)[-1]
        assert name == "Failed"
        assert "the disk is full" in message
        until(lambda: not lab.processes(run), 10)
        step = saved(lab)
        (scratch / "ballast").unlink()
        [again] = lab.queue(LONG)
        until(lambda: resumed_from(lab, again), 120)
        assert resumed_from(lab, again) == step
    finally:
        lab.stop()
        subprocess.run(["umount", "-l", str(scratch)], check=True)


def test_the_form_refuses_and_freezes_what_it_accepts(lab: Lab) -> None:
    only_params(lab)
    lab.start_worker()
    until(lambda: "working" in (lab.folder / "worker.log").read_text(), 60)
    [form] = lab.api("/deployments/filter")
    plain = dict(zip(("version", "size", "dataset"), NAME.split("/"), strict=True))

    def submit(**changes: Any) -> Any:
        return lab.api(f"/deployments/{form['id']}/create_flow_run", {"parameters": {"request": {**plain, **changes}}})

    for wrong in ({"overrides": ["train.stepz=3"]}, {"version": "v99"}, {"seed": -1}, {"seeds": 1}):
        with pytest.raises(urllib.error.HTTPError, match="409"):
            submit(**wrong)
    refused = submit(overrides=["train.candidates=3"])["id"]
    until(lambda: lab.state(refused) == "FAILED", 30)
    assert "candidates is 3" in lab.states(refused)[-1][1]
    submit(priority="high", overrides=["train.batch=8"])
    until(lambda: any(row["state"]["type"] == "COMPLETED" for row in lab.runs()), 90)
    [done] = [row for row in lab.runs() if row["state"]["type"] == "COMPLETED"]
    assert done["name"] == f"{NAME} seed 0 train.batch=8"
    assert done["work_queue_name"] == "high"


def test_a_wrong_night_queues_nothing(lab: Lab) -> None:
    lab.arc("queue", NAME, "--set", "train.stepz=1", code=1)
    lab.arc("queue", NAME, "v99/tiny/aa1-6x6", code=1)
    lab.arc("queue", NAME, "--at", "25:00", code=1)
    assert lab.runs() == []


@pytest.mark.parametrize("runs", [12])
def test_many_runs_keep_their_order(lab: Lab, runs: int) -> None:
    only_params(lab)
    lab.start_worker()
    until(lambda: lab.api("/health", method="GET"), 60)
    queued = lab.queue(SHORT, "--seeds", ",".join(str(seed) for seed in range(runs)))
    until(lambda: [row["state"]["type"] for row in lab.runs()] == ["COMPLETED"] * runs, 60 + 30 * runs)
    starts = {row["id"]: row["start_time"] for row in lab.runs()}
    assert sorted(queued, key=lambda run: starts[run]) == queued


def test_everything_listens_on_this_machine_only(lab: Lab) -> None:
    lab.start_worker()
    until(lambda: "working" in (lab.folder / "worker.log").read_text(), 60)
    found = [c.laddr.ip for p in lab.processes() for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert found
    assert set(found) <= {"127.0.0.1", "::1"}


def test_arc_run_needs_no_server(lab: Lab) -> None:
    only_params(lab)
    (lab.folder / "new.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "flows.arc", "run", NAME, "--set", "train.batch=8"],
        cwd=lab.folder,
        env=lab.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "untracked, so not part of the frozen run: new.py" in done.stderr
    assert "exp/v3/tiny/aa1-6x6/seed-0,train.batch=8" in lab.sh("git", "branch")
    assert not list((lab.folder / ".scratch" / "worktrees").iterdir())
