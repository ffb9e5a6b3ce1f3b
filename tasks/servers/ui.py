"""`arc ui`, `make ui`: MLflow's and Prefect's pages on 127.0.0.1, until Ctrl-C or SIGTERM."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from tasks.common import params, paths
from tasks.common.stage import StageError, die_with_parent, stage
from tasks.servers import background, mlflow_app, prefect_server, private_log
from tasks.tracking import mlflow_runs, store, view
from tasks.tracking.addresses import addressable
from tasks.tracking.store import KEPT_RESULTS

HOST = "127.0.0.1"
TRIES = 3
"""Ports that are tried again."""
START_SECONDS = 120
STOP_SECONDS = 10
LOGS = paths.SCRATCH / "ui"


@dataclass(frozen=True)
class Page:
    """A server and the page that it serves."""

    name: str
    arguments: Callable[[int], tuple[str, ...]]
    """Of `python -m`, for a port."""
    environment: Callable[[int], Mapping[str, str]]
    health: str
    """Path that answers 200 once it serves."""
    ours: Callable[[Any], bool]
    """Whether a process serves the same store."""
    path: str
    """Of the page to open."""

    def answers(self, port: int) -> bool:
        """Whether it serves there."""
        return prefect_server.status(_url(port, self.health), seconds=5) == 200


def mlflow_page(place: store.Store) -> Page:
    """The page of a store that is no server itself."""

    def arguments(port: int) -> tuple[str, ...]:
        kept = ("--backend-store-uri", place.uri, "--artifacts-destination", str(place.artifacts))
        return ("mlflow", "server", "--app-name", "arc", *kept, "--host", HOST, "--port", str(port), "--workers", "1")

    def ours(process: Any) -> bool:
        # A child listens; its parent has the address of the store.
        return any("mlflow" in p.cmdline() and place.uri in p.cmdline() for p in [process, *process.parents()[:1]])

    def environment(_: int) -> dict[str, str]:
        return {**store.SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", mlflow_app.SECRET_VARIABLE: secret()}

    return Page("MLflow", arguments, environment, "/health", ours, "/")


def secret() -> str:
    """USER:TOKEN, which both pages ask for. Raises StageError."""
    try:
        return prefect_server.secret(Path(os.environ.get("PREFECT_HOME", ".prefect")).expanduser())
    except ValueError as error:
        raise StageError(str(error)) from None


def prefect_page() -> Page:
    """The page of the queue."""
    home = Path(os.environ.get("PREFECT_HOME", ".prefect")).expanduser().resolve()

    def environment(port: int) -> dict[str, str]:
        its_home = addressable(home.parent) / home.name
        return {
            **prefect_server.settings(its_home, port),
            "PREFECT_HOME": str(its_home),
            "PREFECT_SERVER_API_HOST": HOST,
            # Not the option --port: with that the page asks for the API at 4200.
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",  # Whatever server PREFECT_API_URL names.
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def ours(process: Any) -> bool:
        # Started by a command in this folder, it has its home from prefect.toml.
        its_home = Path(process.cwd()) / process.environ().get("PREFECT_HOME", ".prefect")
        return "prefect" in " ".join(process.cmdline()) and its_home.resolve() == home

    arguments = ("tasks.servers.calm", "prefect", "server", "start")
    return Page("Prefect", lambda _: arguments, environment, "/api/health", ours, "/")


@stage("ui", tied=False)
def main(
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="MLflow's port, or the next free one.")] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Prefect's port, or the next free one.")] = 4200,
    detach: Annotated[bool, typer.Option("--detach", help="In the background, until `arc ui --stop`.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End what `arc ui --detach` started.")] = False,
) -> None:
    """Start what does not run yet, say where it is, and end it with this process."""
    if stop:
        background.stop()
        return
    if detach:
        background.detach(["--mlflow-port", str(mlflow_port), "--prefect-port", str(prefect_port)])
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup sets it: the pages outlive the terminal.
            signal.signal(number, signal.default_int_handler)
    place = store.configured_store()
    page_ports = [(prefect_page(), prefect_port)]
    if place.artifacts:
        with store.locked(place):
            store.create(place)
            store.relocate(place)
        page_ports.insert(0, (mlflow_page(place), mlflow_port))
    else:
        print(f"MLflow   {scores(place, place.uri)} (MLFLOW_TRACKING_URI)", flush=True)
    started: list[tuple[Page, int, subprocess.Popen[bytes]]] = []
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for page, port in page_ports:
            running_port = running(page)
            if running_port:
                say(page, running_port, place, " (ran already)")
            else:
                chosen = free(port, {other for _, other, _ in started})
                started.append((page, chosen, start(page, chosen)))
                processes.append(started[-1][2])
        for i, one in enumerate(started):
            started[i] = settle(*one, {port for _, port, _ in started})
            processes[i] = started[i][2]
        if started and started[0][0].name == "MLflow" and KEPT_RESULTS.is_dir():
            processes.append(import_kept())
        for page, port, _ in started:
            say(page, port, place)
            if page.name == "MLflow" and KEPT_RESULTS.is_dir():
                print(f"{'':8} the results of {KEPT_RESULTS} appear within five minutes of the first start", flush=True)
        if started:
            file = prefect_server.secret_file(Path(os.environ.get("PREFECT_HOME", ".prefect")).expanduser())
            print(f"Prefect's page asks once for the secret, `cat {file}`; it is in the addresses above", flush=True)
            print("Ctrl-C ends what was started here", flush=True)
        while started:
            time.sleep(0.5)
            for page, _, process in started:
                alive(page, process)
    except KeyboardInterrupt:
        print("ending", flush=True)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        end(processes)


def scores(place: store.Store, page: str, key: str = view.KEY) -> str:
    """Address of the runs in MLflow at `page`, under a view that comes with the store.

    Without presets.yaml, which names the MLflow experiment, it is that of the list of experiments.
    """
    if not paths.PRESETS.exists():
        return view.experiments_page(page)
    name = params.read(paths.PRESETS)["defaults"]["publish"]["experiment"]
    with store.locked(place), mlflow_runs.mlflow_errors(place):
        experiment = mlflow_runs.experiment_id(mlflow_runs.connect(place), place, name)
    return view.runs_page(page, experiment, key)


def say(page: Page, port: int, place: store.Store, note: str = "") -> None:
    """Print the addresses of a page, with the secret; of MLflow's, all runs, the best of each version, and charts."""
    if page.name != "MLflow":
        print(f"{page.name:8} {_url(port, page.path)}{note}", flush=True)
        return
    address = scores(place, _url(port, ""))
    print(f"{page.name:8} {mlflow_app.entrance(address, secret())}{note}", flush=True)
    if paths.PRESETS.exists():
        versions = scores(place, _url(port, ""), "versions")
        for name, shown in (("versions", versions), ("charts", view.as_charts(address))):
            print(f"{name:8} {mlflow_app.entrance(shown, secret())}", flush=True)


def running(page: Page) -> int | None:
    """Port of a server of the same store that somebody started before."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ports = [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            if ports and page.ours(process):
                return next((port for port in ports if page.answers(port)), None)
    return None


def free(port: int, taken: set[int]) -> int:
    """The first port from `port` on that nobody listens on."""
    for candidate in range(port, min(port + 100, 2**16)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, candidate))
            if candidate not in taken:
                return candidate
    raise StageError(f"no port from {port} to {port + 99} is free; name another with --mlflow-port or --prefect-port")


def start(page: Page, port: int) -> "subprocess.Popen[bytes]":
    """Start its server."""
    return _start(_log(page), page.arguments(port), page.environment(port))


def import_kept() -> "subprocess.Popen[bytes]":
    """Publish the kept results that the store never had, meanwhile."""
    return _start(LOGS / "import.log", ("tasks.commands.import_results", "--new-only"), {})


def _start(log: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """`python -m` in a session of its own, so that Ctrl-C reaches us alone and we end all of it."""
    with private_log.create(log) as file:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,  # Databases and logs are for this user.
            preexec_fn=die_with_parent,
        )


def settle(
    page: Page, port: int, process: "subprocess.Popen[bytes]", taken: set[int]
) -> "tuple[Page, int, subprocess.Popen[bytes]]":
    """Wait until it answers; at the next port where another program took this one while it started.

    Raises StageError.
    """
    for _ in range(TRIES):
        try:
            wait(page, port, process)
            break
        except StageError:
            if process.poll() is None or "address already in use" not in _log(page).read_text(errors="replace").lower():
                raise
            taken = taken | {port}
            port = free(port, taken)
            process = start(page, port)
    else:
        wait(page, port, process)
    return page, port, process


def wait(page: Page, port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until it answers. Raises StageError when it ends instead, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not page.answers(port):
        alive(page, process)
        if time.monotonic() > deadline:
            raise StageError(f"{page.name}'s server does not answer after {START_SECONDS} s; see {_log(page)}")
        time.sleep(0.2)


def alive(page: Page, process: "subprocess.Popen[bytes]") -> None:
    """Raise StageError if it ended."""
    if process.poll() is not None:
        tail = "\n".join(_log(page).read_text(errors="replace").splitlines()[-5:])
        raise StageError(f"{page.name}'s server ended with code {process.returncode}; the end of {_log(page)}:\n{tail}")


def end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """SIGTERM to all of their sessions, and SIGKILL to what is left after STOP_SECONDS."""
    family = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(process.pid)
            family += [leader, *leader.children(recursive=True)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        psutil.wait_procs(family, timeout=STOP_SECONDS)


def _log(page: Page) -> Path:
    return LOGS / f"{page.name.lower()}.log"


def _url(port: int, path: str) -> str:
    return f"http://{HOST}:{port}{path}"


if __name__ == "__main__":
    typer.run(main)
