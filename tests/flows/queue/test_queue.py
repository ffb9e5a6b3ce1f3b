"""The queue with real servers and workers, each in a copy of the project of its own."""

import contextlib
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tasks.common.params import override
from tests.support.flows_lab import (
    ENDED,
    LONG,
    NAME,
    SHORT,
    Lab,
    lab,  # noqa: F401
    until,
)
from tests.support.postgresql import database

pytestmark = [pytest.mark.slow, pytest.mark.night]
RUNS = 50
TRAINING = """
    select experiment_id, runs.run_uuid from runs join tags on tags.run_uuid = runs.run_uuid
    where tags.key = 'arc.run' and value = 'experiment'
"""


def test_high_goes_first_and_never_two_at_once(lab: Lab) -> None:
    lab.only("train")
    [first] = lab.queue(LONG)
    [normal] = lab.queue(SHORT, "--seeds", "1")
    lab.start_worker()
    until(lambda: lab.training(first), 120)
    [urgent] = lab.queue(SHORT, "--priority", "high", "--seeds", "2")
    lab.arc("queue", "--cancel", first[:8])  # It ends after the urgent one was queued, however slow the machine is.
    most = 0

    def done() -> bool:
        nonlocal most
        states = [run["state"]["type"] for run in lab.runs()]
        most = max(most, sum(state in ("RUNNING", "PENDING") for state in states))
        return all(state in ENDED for state in states)

    until(done, 300)
    assert most == 1
    rows = {run["id"]: run for run in lab.runs()}
    assert {run: row["state"]["type"] for run, row in rows.items()} == {
        first: "CANCELLED",
        urgent: "COMPLETED",
        normal: "COMPLETED",
    }
    order = sorted(rows, key=lambda run: rows[run]["start_time"])
    assert order == [first, urgent, normal]
    ends, starts = [rows[run]["end_time"] for run in order], [rows[run]["start_time"] for run in order]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def test_what_is_bumped_goes_first_and_what_is_cancelled_or_later_not_at_all(lab: Lab) -> None:
    lab.only("params")
    lab.queue(SHORT, "--seeds", "0,1,2,3")
    tomorrow = datetime.now().astimezone() + timedelta(days=1)
    lab.queue(SHORT, "--seeds", "4", "--at", tomorrow.isoformat())
    lab.arc("queue", "--bump", "3")
    [third] = [run for run in lab.runs() if "seed 2" in run["name"]]
    lab.arc("queue", "--cancel", "2")
    listed = lab.arc("queue", "--list")
    seeds = [line.split("seed ")[1][0] for line in listed.splitlines() if "seed " in line]
    assert seeds == ["2", "1", "3", "4"]
    assert third["work_queue_name"] == "high"
    lab.start_worker()
    until(lambda: sum(run["state"]["type"] == "COMPLETED" for run in lab.runs()) == 3, 120)
    rows = [run for run in lab.runs() if run["state"]["type"] == "COMPLETED"]
    order = [run["name"].split("seed ")[1][0] for run in sorted(rows, key=lambda run: run["start_time"])]
    assert order == ["2", "1", "3"]
    states = {run["name"].split("seed ")[1][0]: run["state"]["type"] for run in lab.runs()}
    assert states["0"] == "CANCELLED"
    assert states["4"] == "SCHEDULED"


def test_a_hand_started_repro_waits_for_the_queue_and_says_for_whom(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 20, 120)
    values = (lab.folder / "params.yaml").read_text().replace("seed: 0", "seed: 1")
    (lab.folder / "params.yaml").write_text(values)
    command = ["dvc", "repro", "train"]
    hand = subprocess.Popen(command, cwd=lab.folder, env=lab.environment, stdout=subprocess.PIPE, text=True)
    assert hand.stdout
    try:
        waits = next(line for line in hand.stdout if line.startswith("waiting for device"))
        title = f"{NAME} batch=8 heads=1 layers=1 ...8 more"
        assert f"held by stage train of {title} seed 0 (process {lab.training(run)[0].pid} in " in waits
        lab.arc("queue", "--cancel", run[:8])
        assert next(line for line in hand.stdout if line.startswith("device")) == "device cpu taken\n"
        [other] = lab.queue(LONG, "--seeds", "2")
        until(lambda: [line for line in lab.log(other) if re.search(r"train of .* seed 1 \(process", line)], 120)
    finally:
        hand.terminate()
        hand.stdout.close()
        hand.wait()


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
    lab.finish(run)
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
    [links] = [row["data"] for row in lab.api("/artifacts/latest/filter") if row["key"] == "links"]
    [experiment] = sqlite3.connect(lab.folder / "mlflow.db").execute(TRAINING).fetchall()
    assert "/#/experiments/{}/runs/{}".format(*experiment) in links


def test_editing_the_code_after_submitting_changes_nothing(lab: Lab) -> None:
    lab.only("params")
    [run] = lab.queue(SHORT)
    for name in ("flows/runs/flow.py", "tasks/common/params.py", "dvc.yaml"):
        (lab.folder / name).write_text("this is broken ]")
    lab.commit("broken")
    lab.sh("git", "revert", "--no-edit", "HEAD")
    lab.start_worker()
    for name in ("flows/runs/flow.py", "tasks/common/params.py", "dvc.yaml"):
        (lab.folder / name).write_text("this is broken ]")
    until(lambda: lab.state(run) in ENDED, 60)
    assert lab.state(run) == "COMPLETED", lab.states(run)


def test_the_form_refuses_and_freezes_what_it_accepts(lab: Lab) -> None:
    lab.only("params")
    lab.start_worker()
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
    accepted = submit(priority="high", overrides=["train.batch=8"])["id"]
    until(lambda: any(row["state"]["type"] == "COMPLETED" for row in lab.runs()), 90)
    [done] = [row for row in lab.runs() if row["state"]["type"] == "COMPLETED"]
    assert done["id"] == accepted, "the page that the form leads to stays"
    assert done["name"] == f"{NAME} batch=8 seed 0"
    assert {f"{kind}:{name}" for kind, name in plain.items()} <= set(done["tags"])


def test_a_wrong_night_queues_nothing(lab: Lab) -> None:
    lab.arc("queue", NAME, "--set", "train.stepz=1", code=1)
    lab.arc("queue", NAME, "v99/tiny/aa1-6x6", code=1)
    lab.arc("queue", NAME, "--at", "25:00", code=1)
    assert not lab.processes(), "nothing is started for what is refused"
    lab.arc("queue", "--list")
    assert lab.runs() == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_fifty_runs_keep_their_order_and_none_is_lost(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        setting = {}
        if kind == "postgresql":
            setting["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = stack.enter_context(database())
        lab = Lab(tmp_path / "lab", **setting)
        stack.callback(lab.stop)
        lab.only("params")
        queued = lab.queue(SHORT, "--seeds", ",".join(str(seed) for seed in range(RUNS)))
        lab.start_worker()
        until(lambda: [row["state"]["type"] for row in lab.runs()] == ["COMPLETED"] * RUNS, 60 * RUNS, every=2)
        starts = {row["id"]: row["start_time"] for row in lab.runs()}
        assert sorted(queued, key=lambda run: starts[run]) == queued
        assert all(len(lab.record(run, "stages")) == 1 for run in queued)
        files = [
            lab.folder / "worker.log",
            *lab.folder.glob(".prefect/*.log"),
            *lab.folder.glob(".scratch/runs/*/flow.log"),
        ]
        assert len(files) == 2 + RUNS
        locked = sum(file.read_text().count("database is locked") for file in files)
        ends = [datetime.fromisoformat(row["end_time"]) for row in lab.runs()]
        took = (max(ends) - min(datetime.fromisoformat(start) for start in starts.values())).total_seconds()
        print(f"{kind}: {RUNS} runs in {took:.0f} s, {locked} times 'database is locked'")
        assert locked == 0
        assert (lab.folder / ".prefect" / "prefect.db").exists() == (kind == "sqlite")


def test_everything_listens_on_this_machine_only(lab: Lab) -> None:
    lab.start_worker()
    found = [c.laddr.ip for p in lab.processes() for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert found
    assert set(found) <= {"127.0.0.1", "::1"}


def cpu_seconds(*processes: psutil.Process) -> float:
    """Of the processes, of those that they have waited for, and theirs."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def test_orchestration_costs_at_most_five_seconds_a_stage(lab: Lab) -> None:
    lab.sh("dvc", "repro", "fetch")  # What both share is there before.
    servers = lab.start_worker(), lab.process(None, "prefect", "server", "start")
    before = cpu_seconds(*servers)
    [run] = lab.queue(SHORT, "--seeds", "1")
    lab.finish(run)
    queued_used = cpu_seconds(*servers) - before
    [row] = lab.runs()
    stages = lab.record(run, "stages")
    assert sum(stage["cached"] for stage in stages) <= 3
    # From the moment of asking: worktree, start of the flow, stages, artifacts, branch.
    created, ended = (datetime.fromisoformat(row[key]) for key in ("created", "end_time"))
    queued = (ended - created).total_seconds()
    lab.stop()
    values: Any = dict(zip(("version", "size", "dataset"), NAME.split("/"), strict=True)) | {"seed": 2}
    for key, value in SHORT.items():
        values = override(values, f"{key}={value}")
    (lab.folder / "params.yaml").write_text(yaml.safe_dump(values))
    began, used = time.monotonic(), cpu_seconds(psutil.Process())
    lab.sh("dvc", "repro")
    bare, used = time.monotonic() - began, cpu_seconds(psutil.Process()) - used
    each, each_used = (queued - bare) / len(stages), (queued_used - used) / len(stages)
    print(f"queue {queued:.1f} s ({queued_used:.1f} s of CPU), dvc repro {bare:.1f} s ({used:.1f} s of CPU)")
    print(f"{len(stages)} stages: {each:.1f} s each ({each_used:.1f} s of CPU)")
    assert each_used <= 5
    if bare < 1.2 * used:  # On a loaded machine the time says nothing.
        assert each <= 5


def test_nothing_is_told_to_the_network(tmp_path: Path) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(1)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        variables = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), address)
        lab = Lab(tmp_path, **variables, **{name.upper(): value for name, value in variables.items()})
        try:
            # The proxy is used: else this test could not fail.
            asked = "import urllib.request; urllib.request.urlopen('http://example.invalid', timeout=0.1)"
            subprocess.run([sys.executable, "-c", asked], env=lab.environment, stderr=subprocess.DEVNULL)
            heard, _ = proxy.accept()
            heard.close()
            lab.start_worker()
            [run] = lab.queue(SHORT)
            lab.finish(run)
            lab.sh("dvc", "status")
            with pytest.raises(TimeoutError):
                proxy.accept()
        finally:
            lab.stop()


def test_arc_run_needs_no_server(lab: Lab) -> None:
    lab.only("params")
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
