"""Two clones of the project with homes, DVC caches and scratch of their own; the git and DVC remotes are folders."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

from tasks.servers import mlflow_app
from tests.support import postgresql
from tests.support.flows_lab import Lab, until
from tests.support.ports import free_port


class Clone(Lab):
    """A clone of the shared git remote that works for the server of another lab."""

    def __init__(self, folder: Path, remote: Path, first: Lab) -> None:
        self.folder, self.port = folder, free_port()
        subprocess.run(["git", "clone", "-q", str(remote), str(folder)], check=True)
        self.environment = {
            **first.environment,
            # Not that of the server: a process of this clone is known by it.
            "PREFECT_SERVER_API_PORT": str(self.port),
            "ARC_LOCKS": str(folder / ".scratch" / "locks"),
            "HOME": str(home(folder)),
        }
        self.sh("git", "config", "user.name", "tests")
        self.sh("git", "config", "user.email", "tests@localhost")


def home(folder: Path) -> Path:
    """The home of a clone's user."""
    path = folder.with_name(f"{folder.name}-home")
    path.mkdir(exist_ok=True)
    return path


@contextlib.contextmanager
def started(folder: Path, third: bool = False) -> Iterator["Cluster"]:
    """A cluster, on PostgreSQL where it is installed: SQLite refuses several workers where one core is busy."""
    with contextlib.ExitStack() as stack:
        setting = {}
        if postgresql.installed():
            setting["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = stack.enter_context(postgresql.database())
        made = Cluster(folder, third, **setting)
        stack.callback(made.stop)
        yield made


class Cluster:
    """Clone A with Prefect's and MLflow's servers, clone B, perhaps a clone C, and their remotes."""

    def __init__(self, folder: Path, third: bool = False, **environment: str) -> None:
        self.remote, self.data = folder / "code.git", folder / "objects"
        self.data.mkdir()
        self.a = Lab(folder / "a", HOME=str(home(folder / "a")), **environment)
        subprocess.run(["git", "clone", "-q", "--bare", str(self.a.folder), str(self.remote)], check=True)
        self.a.sh("git", "remote", "add", "origin", str(self.remote))
        self.b = Clone(folder / "b", self.remote, self.a)
        self.others = [self.b, *([Clone(folder / "c", self.remote, self.a)] if third else [])]
        self.api = f"http://127.0.0.1:{self.a.port}"
        self.mlflow = f"http://127.0.0.1:{free_port()}"
        self.page: subprocess.Popen[bytes] | None = None

    def start_servers(self) -> None:
        """Prefect's by a command of A, and MLflow's on A's store; also where they ran before."""
        self.a.arc("queue", "--list")
        store = ["--backend-store-uri", f"sqlite:///{self.a.folder}/mlflow.db"]
        artifacts = ["--artifacts-destination", str(self.a.folder / "mlartifacts")]
        at = ["--host", "127.0.0.1", "--port", self.mlflow.rpartition(":")[2], "--workers", "1"]
        self.page = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--app-name", "arc", *store, *artifacts, *at],
            cwd=self.a.folder,
            env={
                **self.a.environment,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                mlflow_app.SECRET_VARIABLE: self.secret(),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: reached(f"{self.mlflow}/health"), 60)

    def branches(self) -> list[str]:
        """Results at the shared git remote; the last steps of a run come after its state is COMPLETED."""
        command = ["git", "for-each-ref", "--format=%(refname:short)", "refs/heads/exp"]
        return subprocess.run(command, cwd=self.remote, capture_output=True, text=True, check=True).stdout.split()

    def secret(self) -> str:
        """The secret of A's server."""
        return (self.a.folder / ".prefect" / "secret").read_text().strip()

    def pause(self) -> None:
        """Let an experiment be a stage that waits, in all clones."""
        self.a.only("params")
        path = self.a.folder / "dvc.yaml"
        project = yaml.safe_load(path.read_text())
        project["stages"]["pause"] = {"cmd": "sleep 1000.25", "deps": ["data/experiment.yaml"]}
        path.write_text(yaml.safe_dump(project, sort_keys=False))
        self.a.commit("a stage that waits")
        self.a.sh("git", "push", "-q", "origin", "main")
        self.b.sh("git", "pull", "-q")

    @staticmethod
    def pausing(clone: Lab) -> list[psutil.Process]:
        """The processes of a clone that wait."""
        found = []
        for process in clone.processes():
            with contextlib.suppress(psutil.Error):  # It has ended meanwhile.
                found += [process] if process.name() == "sleep" else []
        return found

    def join(
        self, clone: Lab, *options: str, code: int = 0, mlflow: bool = True, data: str = "", **environment: str
    ) -> str:
        """`arc join` with all shared places; `data` is another address of the DVC remote."""
        command = [sys.executable, "-m", "flows.arc", "join", self.api, *options]
        command += ["--mlflow", self.mlflow] if mlflow else []
        done = subprocess.run(
            [*command, "--data", data or str(self.data)],
            cwd=clone.folder,
            env={**clone.environment, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stop(self) -> None:
        """End everything."""
        for lab in (*self.others, self.a):
            lab.stop()
        self.kill_mlflow()

    def kill_mlflow(self) -> None:
        """End MLflow's server with the processes that it started."""
        if self.page:
            for child in psutil.Process(self.page.pid).children(recursive=True):
                child.kill()
            self.page.kill()
            self.page.wait()
            self.page = None


def reached(url: str) -> bool:
    """Whether a server answers there with 200."""
    from tasks.servers import prefect_server

    return prefect_server.status(url) == 200
