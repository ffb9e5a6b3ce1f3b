"""`arc ui` with servers that are made up: what it starts, says and ends, and where it leads."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tasks.common.stage import StageError
from tasks.servers import background, mlflow_app, prefect_server, ui
from tasks.tracking import mlflow_runs, store, view
from tasks.tracking.store import Store
from tests.conftest import ROOT


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What was started and ended; `known` are ports of pages that run already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    one = SimpleNamespace(known={}, started=[], ended=[], asked=[], looks=[0], handlers={})
    place = Store("sqlite:///x", tmp_path / "x.db", tmp_path / "mlartifacts")
    one.place = place
    monkeypatch.setattr(store, "configured_store", lambda: one.place)
    monkeypatch.setattr(store, "create", lambda _: one.asked.append("created"))
    monkeypatch.setattr(store, "relocate", lambda _: one.asked.append("relocated"))
    monkeypatch.setattr(ui, "running", lambda page: one.known.get(page.name))
    monkeypatch.setattr(ui, "free", lambda port, taken: max([port, *(other + 1 for other in taken)]))
    monkeypatch.setattr(ui, "start", lambda page, port: one.started.append((page.name, port)) or f"{page.name} process")
    monkeypatch.setattr(ui, "settle", lambda page, port, process, taken: (page, port + 100, process))

    def end(processes: list[str]) -> None:
        one.ended.extend(processes)
        one.handlers_then = dict(one.handlers)

    monkeypatch.setattr(ui, "end", end)
    monkeypatch.setattr(ui, "import_kept", lambda: "import")
    monkeypatch.setattr(
        "tasks.servers.ui.signal.signal", lambda number, handler: one.handlers.__setitem__(number, handler)
    )

    def sleep(_: float) -> None:
        one.looks[0] += 1
        if one.looks[0] > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ui, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    monkeypatch.setattr(ui, "alive", lambda page, process: one.asked.append(f"{page.name} alive"))
    return one


def test_both_pages_start_and_end_together(made: Any, capsys: Any) -> None:
    (Path("docs") / "baselines").mkdir(parents=True)
    ui.main(5000, 5000, False, False)
    assert made.started == [("MLflow", 5000), ("Prefect", 5001)]
    assert made.ended == ["MLflow process", "Prefect process", "import"]
    assert made.asked[:2] == ["created", "relocated"]
    assert made.asked.count("MLflow alive") == made.asked.count("Prefect alive") == 2
    out = capsys.readouterr().out.splitlines()
    secret = ui.secret().partition(":")[2]
    assert out[0].startswith("MLflow   http://127.0.0.1:5100")
    assert "appear within five minutes" in out[1]
    assert out[2] == "Prefect  http://127.0.0.1:5101/"
    assert secret in out[0]
    assert f"cat {prefect_server.secret_file(Path(os.environ['PREFECT_HOME']))}" in out[3]
    assert out[4:] == ["Ctrl-C ends what was started here", "ending"]
    assert {made.handlers_then[number] for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)} == {signal.SIG_IGN}


@pytest.mark.parametrize("option", ["--mlflow-port", "--prefect-port"])
@pytest.mark.parametrize("port", ["-1", "0", "65536"])
def test_what_is_no_port_is_refused(made: Any, option: str, port: str) -> None:
    command = typer.Typer()
    command.command()(ui.main)
    done = CliRunner().invoke(command, [option, port])
    assert (done.exit_code, f"Invalid value for '{option}'" in done.output) == (2, True), done.output
    assert made.started == []


def test_a_tracking_server_that_does_not_answer_is_one_line(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("presets.yaml").symlink_to(ROOT / "presets.yaml")
    monkeypatch.setattr(os, "environ", dict(os.environ))  # MLflow's client puts its settings there.
    monkeypatch.setitem(store.SETTINGS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made.place = Store("http://127.0.0.1:9", None, None)
    with pytest.raises(SystemExit, match=r"^ui: MLflow at http://127\.0\.0\.1:9: .+"):
        ui.main(5000, 4200, False, False)


def test_what_runs_already_is_said_and_left(made: Any, capsys: Any) -> None:
    made.known = {"MLflow": 7, "Prefect": 8}
    ui.main(5000, 4200, False, False)
    assert (made.started, made.ended, made.looks) == ([], [], [0])
    first, second = capsys.readouterr().out.splitlines()
    assert "http://127.0.0.1:7" in first
    assert first.endswith("(ran already)")
    assert second == "Prefect  http://127.0.0.1:8/ (ran already)"


def test_a_tracking_server_has_a_page_of_its_own(made: Any, capsys: Any) -> None:
    made.place = Store("http://there", None, None)
    ui.main(5000, 4200, False, False)
    assert made.started == [("Prefect", 4200)]
    assert made.ended == ["Prefect process"]
    head = capsys.readouterr().out.splitlines()[0]
    assert head == f"MLflow   {view.experiments_page('http://there')} (MLFLOW_TRACKING_URI)"


def test_the_background_gets_the_ports(made: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(background, "detach", made.asked.append)
    monkeypatch.setattr(background, "stop", lambda: made.asked.append("stopped"))
    ui.main(5, 6, True, False)
    ui.main(5, 6, True, True)
    assert made.asked == [["--mlflow-port", "5", "--prefect-port", "6"], "stopped"]
    assert made.started == []


def test_with_presets_the_addresses_are_those_of_the_experiment(made: Any, monkeypatch: Any, capsys: Any) -> None:
    Path("presets.yaml").symlink_to(ROOT / "presets.yaml")
    monkeypatch.setattr(mlflow_runs, "connect", lambda _: "client")
    monkeypatch.setattr(mlflow_runs, "experiment_id", lambda client, place, name: f"{client} {name}")
    runs = view.runs_page("http://127.0.0.1:5", "client arc-diffusion")
    assert ui.scores(made.place, "http://127.0.0.1:5") == runs
    ui.say(ui.mlflow_page(made.place), 5, made.place, " (note)")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"MLflow   {mlflow_app.entrance(runs, ui.secret())} (note)"
    versions = view.runs_page("http://127.0.0.1:5", "client arc-diffusion", "versions")
    assert second == f"versions {mlflow_app.entrance(versions, ui.secret())}"
    assert third == f"charts   {mlflow_app.entrance(view.as_charts(runs), ui.secret())}"


def test_a_page_is_ours_by_the_store_or_the_home_of_its_process(made: Any, tmp_path: Path) -> None:
    parent = SimpleNamespace(cmdline=lambda: ["mlflow", "server", "sqlite:///x"])
    other = SimpleNamespace(cmdline=lambda: ["mlflow", "server", "sqlite:///y"], parents=list)
    child = SimpleNamespace(cmdline=lambda: ["worker"], parents=lambda: [parent, other])
    grandchild = SimpleNamespace(cmdline=lambda: ["worker"], parents=lambda: [other, parent])
    page = ui.mlflow_page(made.place)
    assert [page.ours(p) for p in (child, grandchild, other)] == [True, False, False]
    command = page.arguments(7)
    assert command[command.index("--backend-store-uri") + 1] == "sqlite:///x"
    assert command[command.index("--port") + 1] == "7"
    assert page.environment(7)[mlflow_app.SECRET_VARIABLE] == ui.secret()
    queue = ui.prefect_page()

    def server(folder: Path, words: list[str], **variables: str) -> Any:
        return SimpleNamespace(cwd=lambda: str(folder), environ=lambda: variables, cmdline=lambda: words)

    assert queue.ours(server(tmp_path, ["prefect", "server"]))
    assert queue.ours(server(Path("/"), ["prefect"], PREFECT_HOME=str(tmp_path / ".prefect")))
    assert not queue.ours(server(Path("/"), ["prefect"]))
    assert not queue.ours(server(tmp_path, ["python"]))
    assert queue.environment(7)["PREFECT_SERVER_API_PORT"] == "7"
    (tmp_path / ".prefect" / "secret").write_text("damaged")
    with pytest.raises(StageError):
        ui.secret()
