"""What others can do at the queue's port: nothing without the secret, and with it nothing that the worker executes."""

import json
import os
import stat
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import browser
from tests.support.flows_lab import (
    ENDED,
    NAME,
    SHORT,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]
FOREIGN = {"Origin": "http://evil.example", "Content-Type": "application/json"}
PAGE = """async address => {
    const body = JSON.stringify({name: 'x'});
    const attempts = [['/flows/', {method: 'POST', body}], ['/csrf-token?client=x', {}],
        ['/flows/filter', {method: 'POST', body: '{}'}], ['/flows/', {method: 'POST', body, mode: 'no-cors'}]];
    const seen = [];
    for (const [path, request] of attempts)
        try { const answer = await fetch(address + path, request); seen.push(answer.type + ' ' + answer.status); }
        catch (error) { seen.push('refused'); }
    return seen;
}"""


def attack(lab: Lab, mark: Path) -> dict[str, Any]:
    """Everything that could make the worker execute a command; needs the secret. Returns the ids of the runs."""
    flow = lab.api("/flows/", {"name": "evil"})["id"]
    script = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}-pulled"}}
    common = {"flow_id": flow, "work_pool_name": "gpu", "work_queue_name": "normal", "entrypoint": "flows.arc.run"}
    other = lab.api("/deployments/", {**common, "name": "evil", "pull_steps": [script]})["id"]
    [ours] = [row["id"] for row in lab.api("/deployments/filter") if row["name"] == "queue"]
    plain = dict(zip(("version", "size", "dataset"), NAME.split("/"), strict=True))
    request = {"parameters": {"request": plain}}
    command = {"job_variables": {"command": f"touch {mark}-command"}}
    environment = {"job_variables": {"env": {"PYTHONSTARTUP": str(mark), "BASH_ENV": str(mark)}}}
    commit = {"job_variables": {"env": {"ARC_COMMIT": "HEAD"}}}

    def create(place: str, body: dict[str, Any]) -> str:
        return str(lab.api(f"/deployments/{place}/create_flow_run", body)["id"])

    return {
        "pull steps": create(other, {}),
        "command": create(ours, request | command),
        "environment": create(ours, request | environment),
        "commit": create(ours, request | commit),
    }


def test_the_worker_refuses_foreign_code_and_executes_ours(lab: Lab, tmp_path: Path) -> None:
    lab.only("params")
    lab.start_worker()
    mark = tmp_path.parent / f"{tmp_path.name}-mark"
    runs = attack(lab, mark)
    until(lambda: all(lab.state(run) in ENDED for run in runs.values()), 60)
    for name, run in runs.items():
        state, message = lab.states(run)[-1]
        print(f"{name}: {state}: {message}")
        assert (state, message[:8]) == ("Failed", "refused:")
    assert not list(mark.parent.glob(f"{mark.name}*"))
    [run] = lab.queue(SHORT)
    until(lambda: lab.state(run) in ENDED, 90)
    assert lab.state(run) == "COMPLETED", lab.states(run)


def test_what_others_changed_in_our_deployment_and_pool_is_refused_or_reset(lab: Lab, tmp_path: Path) -> None:
    lab.only("params")
    lab.start_worker()
    mark = tmp_path.parent / f"{tmp_path.name}-mark"
    [ours] = lab.api("/deployments/filter")
    script = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}
    again = {key: ours[key] for key in ("name", "flow_id", "entrypoint", "work_pool_name", "work_queue_name")}
    lab.api("/deployments/", {**again, "pull_steps": [script]})
    plain = dict(zip(("version", "size", "dataset"), NAME.split("/"), strict=True))
    body = {"parameters": {"request": plain}, "name": "changed"}
    lab.api(f"/deployments/{ours['id']}/create_flow_run", body)
    # It may be admitted, as a run of another name, before it is refused.
    until(lambda: lab.runs() and all(row["state"]["type"] in ENDED for row in lab.runs()), 60)
    assert {row["state"]["type"] for row in lab.runs()} == {"FAILED"}
    assert "pull_steps" in lab.states(lab.runs()[-1]["id"])[-1][1]
    [run] = lab.queue(SHORT)  # Every command makes the deployment again.
    until(lambda: lab.state(run) in ENDED, 90)
    assert lab.state(run) == "COMPLETED"
    assert not mark.exists()


def test_who_has_no_secret_is_refused(lab: Lab) -> None:
    lab.arc("queue", "--list")
    json_only = {"Content-Type": "application/json"}
    for headers in (json_only, FOREIGN, {**json_only, "Host": "evil.example"}):
        for method, path in (("POST", "/deployments/"), ("POST", "/block_documents/filter"), ("GET", "/admin/version")):
            with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
                lab.ask(path, {}, method, headers)
    home = lab.folder / ".prefect"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    private = [home / "secret", *home.glob("*.db*"), *home.glob("*.log")]
    assert len(private) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_another_user_of_the_machine_is_refused(lab: Lab) -> None:
    if os.getuid():
        pytest.skip("needs root to become another user")
    lab.arc("queue", "--list")
    secret = lab.folder / ".prefect" / "secret"
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "capture_output": True}
    assert subprocess.run(["cat", str(secret)], **nobody).returncode
    [server] = [p.pid for p in lab.processes() if any("prefect" in word for word in p.cmdline())][:1]
    assert subprocess.run(["cat", f"/proc/{server}/environ"], **nobody).returncode
    ask = f"""
import urllib.request, urllib.error
try:
    urllib.request.urlopen("http://127.0.0.1:{lab.port}/api/csrf-token?client=x")
except urllib.error.HTTPError as error:
    print(error.code)
"""
    # The system's own Python: ours may lie in a folder that is closed to others.
    assert subprocess.run(["/usr/bin/env", "python3", "-c", ask], **nobody).stdout == b"401\n"


def test_a_page_of_another_origin_is_refused(lab: Lab) -> None:
    lab.arc("queue", "--list")
    with browser() as page:
        page.route("http://evil.example/", lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
        page.goto("http://evil.example/")
        seen = page.evaluate(PAGE, f"http://127.0.0.1:{lab.port}/api")
        # Chromium may send the last one, whose answer the page does not see.
        assert seen in (["refused"] * 4, ["refused"] * 3 + ["opaque 0"])
    assert [row["name"] for row in lab.api("/flows/filter")] == ["experiment"]


def test_runs_of_other_deployments_are_left_alone(lab: Lab) -> None:
    lab.only("params")
    lab.arc("queue", "--list")
    flow = lab.api("/flows/", {"name": "theirs"})["id"]
    pool = lab.api("/work_pools/", {"name": "theirs", "type": "process"})["name"]
    place = lab.api("/deployments/", {"flow_id": flow, "name": "queue", "work_pool_name": pool})["id"]
    runs = [lab.api(f"/deployments/{place}/create_flow_run", {})["id"] for _ in range(3)]
    lone = lab.api("/flow_runs/", {"flow_id": lab.api("/flows/", {"name": "experiment"})["id"]})["id"]
    for run, kind in zip([*runs, lone], ("RUNNING", "PENDING", "SCHEDULED", "RUNNING"), strict=True):
        lab.api(f"/flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})
    lab.start_worker()
    [ours] = lab.queue(SHORT)
    until(lambda: lab.state(ours) in ENDED, 90)
    assert lab.state(ours) == "COMPLETED"
    assert [lab.state(run) for run in [*runs, lone]] == ["RUNNING", "PENDING", "SCHEDULED", "RUNNING"]
    assert "theirs" not in json.dumps(lab.arc("queue", "--list"))
