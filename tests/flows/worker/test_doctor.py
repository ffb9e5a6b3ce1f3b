"""The morning after, notifications, and what `arc doctor` finds, on real servers and real damage."""

import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.flows_lab import (
    LONG,
    NAME,
    SHORT,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]
EXAMINE = "import json; from flows.worker import doctor; print(json.dumps([vars(found) for found in doctor.examine()]))"


def wrong(lab: Lab, what: str) -> list[dict[str, str]]:
    """Findings about `what` that have a fix."""
    found = json.loads(lab.sh(sys.executable, "-c", EXAMINE))
    assert any(row["what"] == what for row in found) or what in ("run", "worktree", "lock")
    return [row for row in found if row["what"] == what and row["fix"]]


def test_each_damage_is_found_and_its_fix_works(lab: Lab) -> None:
    assert wrong(lab, "worker")
    with socket.socket() as other:
        other.bind(("127.0.0.1", lab.port))
        other.listen()
        assert "used by another program" in wrong(lab, "server")[0]["found"]
    assert "none at" in wrong(lab, "server")[0]["found"]
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 20, 120)
    assert [wrong(lab, what) for what in ("worker", "server", "run", "worktree")] == [[], [], [], []]
    lab.stop()
    (lab.folder / ".scratch" / "worktrees" / "of-no-run").mkdir()
    lab.arc("queue", "--list")  # Starts the server, and no worker.
    [dead], [lost] = wrong(lab, "run"), wrong(lab, "worktree")
    assert "is dead" in dead["found"]
    assert "of-no-run" in lost["found"]
    locks = wrong(lab, "lock")
    assert all(lock["fix"].startswith("`rm ") for lock in locks)
    for lock in locks:
        Path(lock["fix"].strip("`").removeprefix("rm ")).unlink()
    lab.start_worker()
    until(lambda: lab.resumed_from(run), 120)
    assert [wrong(lab, what) for what in ("worker", "server", "run", "worktree", "lock")] == [[], [], [], [], []]
    assert "ok" in lab.sh("sh", "-c", f"{sys.executable} -m flows.arc doctor || true")
    lab.stop()
    lab.arc("doctor", code=1)


def test_a_server_of_another_checkout_is_left_alone(tmp_path: Path) -> None:
    first = Lab(tmp_path / "first")
    second = Lab(tmp_path / "second", PREFECT_SERVER_API_PORT=str(first.port))
    try:
        first.queue(SHORT)
        for command in (("queue", NAME), ("queue", "--list"), ("worker",), ("night",)):
            second.arc(*command, code=1)
        [finding] = wrong(second, "server")
        assert "another checkout" in finding["found"]
        assert len(first.runs()) == 1
        assert wrong(first, "server") == []
    finally:
        first.stop()


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Address of a listener, and what it was sent."""
    told: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
payload = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="lab", url=sys.argv[1], json_data=payload).save("lab")
"""


def test_the_morning_after_tells_all_and_prefects_block_is_notified(
    tmp_path: Path, heard: tuple[str, list[dict[str, str]]]
) -> None:
    lab = Lab(tmp_path, ARC_NOTIFY="custom-webhook/lab")
    try:
        lab.start_worker()
        secret = (lab.folder / ".prefect" / "secret").read_text().strip()
        ours = {"PREFECT_API_URL": f"http://127.0.0.1:{lab.port}/api", "PREFECT_API_AUTH_STRING": secret}
        lab.environment |= ours
        lab.sh(sys.executable, "-c", BLOCK, heard[0])
        for name in ours:
            del lab.environment[name]
        runs = lab.queue(SHORT, "--seeds", "0,1") + lab.queue({**SHORT, "train.optimizer.learning_rate": "1e30"})
        lab.finish(*runs)
        assert [lab.state(run) for run in runs] == ["COMPLETED", "COMPLETED", "FAILED"]
        until(lambda: len(heard[1]) == 3, 30)
        assert [row["subject"].rsplit(": ")[-1] for row in heard[1]] == ["Completed", "Completed", "Failed"]
        assert "the loss is not finite" in heard[1][2]["body"]
        lab.arc("night")
        [night] = [row for row in lab.api("/artifacts/latest/filter") if row["key"] == "night"]
        text, last = night["data"].split("\n\n")[1:]
        head, _, *rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
        shown = [dict(zip(head, row, strict=True)) for row in rows]
        assert [bool(re.fullmatch(r"[\d.]+ \[[\d.]+–[\d.]+\]", row["pass@2 %"])) for row in shown] == [
            True,
            True,
            False,
        ]
        pages = [re.search(r"\]\((http://127\.0\.0\.1:\d+/runs/flow-run/(.+))\)", row["run"]) for row in shown]
        assert {page[2] for page in pages if page} == set(runs)
        assert pages[2]
        assert pages[2][2] == runs[2]
        assert last.startswith("best: ")
        assert shown[2]["why"].startswith("train: the loss is not finite")
        # The stages that computed held the lock of the CPU. The second seed trained anew; the third failed in training.
        assert all(float(row["GPU-min"]) > 0 for row in shown[:2])
    finally:
        lab.stop()
