"""`arc join`: checks each piece of a cluster from this clone, and saves the settings if all of them work."""

import subprocess
from pathlib import Path

from flows.cluster import checks, dvc_remote, settings
from flows.cluster.settings import Settings
from flows.runs import places
from flows.runs.places import FlowError, one_line


def join(url: str, mlflow: str, remote: str, data: str, secret: Path | str, saves: str = "") -> list[checks.Row]:
    """Check, and save if nothing is to be fixed. Returns the checks. Raises FlowError where the arguments are wrong.

    `url` may be that of this clone's own server, which other clones join too; `secret` is a file, or the secret itself,
    or empty where it is known; `saves` are the minutes between two shared saves of a training, empty for none.
    """
    api = settings.api_of(url)
    key = key_of(api, secret)
    if data.startswith((".", "/", "~")):
        try:
            data = str(Path(data).expanduser().resolve())
        except RuntimeError as error:
            raise FlowError(f"--data is {data!r}: {error}") from None
    if saves:
        dvc_remote.minutes(saves)
        if not data and not dvc_remote.configured(places.home()):
            raise FlowError("shared saves of trainings go to the DVC remote, and there is none; give --data too")
    cluster = Settings("" if settings.own(api) else api, mlflow.rstrip("/"), remote, saves)
    rows = list(checks.rows(cluster, key, data))
    if any(fix for _, _, fix in rows):
        return rows
    if data:
        _use_remote(data)
    settings.write(cluster, key)
    return rows


def _use_remote(url: str) -> None:
    """Make the remote at `url` DVC's default in this clone; a key that the user gave it before stays."""
    name = dvc_remote.REMOTE_NAME
    exists = any(line.split()[0] == name for line in _dvc("remote", "list").splitlines())
    _dvc("remote", *(["modify", "--local", name, "url"] if exists else ["add", "--local", name]), url)
    _dvc("remote", "default", "--local", name)


def _dvc(*arguments: str) -> str:
    done = subprocess.run(["dvc", *arguments], cwd=places.home(), capture_output=True, text=True)
    if done.returncode:
        raise FlowError(f"dvc {' '.join(arguments[:2])}: {one_line(done.stderr)}")
    return done.stdout


def key_of(api: str, secret: Path | str) -> str:
    """The secret of a server: from a file, as given, this clone's own, or the one saved before. Raises FlowError."""
    if isinstance(secret, Path):
        return settings.secret_of(secret.expanduser())
    if settings.own(api):
        return places.environment().get(settings.AUTH_VARIABLE, "")
    if secret:
        return secret
    if settings.secret_file().exists() and settings.read().server == api:
        return settings.secret_of(settings.secret_file())
    raise FlowError(
        f"the secret of {api} is missing; `cat .prefect/secret` in the server's clone prints it: "
        f"put it into {settings.AUTH_VARIABLE}, or into a file of mode 0600 that --secret names"
    )


def leave() -> None:
    """Forget the cluster: this clone is on its own again. DVC's and git's remotes stay."""
    settings.write(Settings(), "")
    settings.secret_file().unlink(missing_ok=True)
