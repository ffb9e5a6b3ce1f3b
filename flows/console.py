"""What the commands of `arc` share: the environment, the server, errors in one line, tables, and stages as commands."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import completion

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print errors that a user can correct as one line, without a traceback, and exit with code 1."""
    from flows.runs import failure_reasons

    try:
        yield
    except Exception as error:
        if (message := failure_reasons.expected(error)) is None:
            raise
        sys.exit(f"arc: {message}")


@contextmanager
def connected() -> "Iterator[SyncPrefectClient]":
    """A client of the server; creates or updates the deployment first."""
    from flows.queue import deployment
    from flows.runs import calm_log

    calm_log.install()
    with deployment.client() as connection:
        deployment.ensure(connection)
        yield connection


def table(rows: list[dict[str, str]], one_line: bool = False) -> None:
    """Print rows as a table; the keys of the first row are the header. `one_line` cuts what is too long for a line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        print("nothing")
        return
    shown = Table()
    for name in rows[0]:
        shown.add_column(name, no_wrap=one_line, overflow="ellipsis" if one_line else "fold")
    for row in rows:
        shown.add_row(*(escape(text) for text in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def at_the_root() -> None:
    """Exit in a folder within a checkout: relative paths would name another store there, and no parameters."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()), here)
    if root != here and (root / "presets.yaml").exists():
        sys.exit(f"arc: run it in the project's folder: cd {root}")


def environment(at: str = "") -> None:
    """Set this project's environment variables. Prefect reads them when it is imported, so this comes first.

    `at` is the address of a Prefect server, over those of the environment and of `arc join`.
    """
    at_the_root()
    with one_line_errors():
        from flows.cluster import settings
        from flows.runs import places

        if at:
            os.environ["PREFECT_API_URL"] = settings.api_of(at)
        os.environ.update(settings.environment())
        os.environ.update(places.environment())


def server() -> None:
    """Start the server if none answers. Prefect reads its address when it is imported, so this comes first."""
    from flows.worker import server as running

    running.ensure()
    os.environ["PREFECT_API_URL"] = running.address()


def stage_command(name: str, module: str) -> Callable[[list[str] | None], None]:
    """The `main` of a module in `tasks`, called with the arguments of `arc NAME`; it has a help of its own."""

    def command(
        arguments: Annotated[
            list[str] | None, typer.Argument(autocompletion=completion.experiments_or_paths, hidden=True)
        ] = None,
    ) -> None:
        at_the_root()
        main = typer.Typer(add_completion=False)
        main.command()(importlib.import_module(f"tasks.{module}").main)
        main(arguments or [], prog_name=f"arc {name}")

    return command
