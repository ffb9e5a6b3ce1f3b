"""The `arc` command. Each command imports what it needs when it runs, so that `arc --help` answers at once."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import completion

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train, evaluate and compare discrete-diffusion solvers of ARC puzzles.",
    epilog="An EXPERIMENT is VERSION/SIZE/DATASET, three names of presets.yaml, such as v3/smol/aa1. "
    "`arc COMMAND --help` explains a command; README.md shows a first run and a night of runs.",
)
RUN, LOOK, USE, CARE = "Run experiments", "Look at results", "Use and share results", "This machine"
"""Panels of `arc --help`."""

Experiment = Annotated[
    str, typer.Argument(help="VERSION/SIZE/DATASET, such as v3/smol/aa1", autocompletion=completion.experiments)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Over the presets; `arc params` prints every key. Repeatable."),
]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print errors that a user can correct as one line, without a traceback, and exit with code 1."""
    from flows.runs.places import FlowError
    from tasks.common.presets import ConfigurationError

    try:
        yield
    except (FlowError, ConfigurationError) as error:
        sys.exit(f"arc: {error}")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from flows.runs.places import FlowError, git

        commit = ""
        with suppress(FlowError):
            commit = f", commit {git('describe', '--always', '--dirty', cwd=Path(__file__).parent)}"
        print(f"arc-diffusion {version('arc-diffusion')}{commit}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and the commit.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command(rich_help_panel=RUN)
def run(
    experiment: Experiment,
    overrides: Set = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Run one experiment now, with or without a server, from a frozen copy of the code."""
    _environment()
    with one_line_errors():
        from flows.runs import products
        from flows.runs.places import FlowError
        from flows.worker import foreground as command

        requests = products.requests([experiment], overrides or [], str(seed), "normal")
        if len(requests) > 1:
            raise FlowError(f"these are {len(requests)} runs, and `arc run` makes one; `arc queue` takes them all")
        command.run(requests[0])


@app.command(rich_help_panel=RUN)
def worker() -> None:
    """Execute queued runs until Ctrl-C. Starts the server if none answers, and first recovers from an earlier crash."""
    _environment()
    with one_line_errors():
        _server()
        os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
        os.environ.setdefault("PREFECT_WORKER_PREFETCH_SECONDS", "1")
        os.environ.setdefault("PREFECT_WORKER_CANCELLATION_POLL_SECONDS", "5")
        from flows.worker import worker as command

        command.work()


@app.command(rich_help_panel=RUN)
def queue(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(help="VERSION/SIZE/DATASET, one or many", autocompletion=completion.experiments),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Every experiment runs with each of these seeds, such as 0,1")] = "0",
    priority: Annotated[str, typer.Option(help="high runs before every normal one")] = "normal",
    at: Annotated[str | None, typer.Option(help="Start no earlier than HH:MM, or an ISO date and time.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE,...",
            help="Over the presets. Several values make several runs, one for each combination. Repeatable.",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List running and waiting runs in the order of execution.")
    ] = False,
    bump: Annotated[str | None, typer.Option(help="Number or id of a waiting run that is moved to the front.")] = None,
    cancel: Annotated[str | None, typer.Option(help="Number or id of a run to cancel; a training saves first.")] = None,
) -> None:
    """Queue experiments for `arc worker`, or manage the queue."""
    _environment()
    with one_line_errors():
        # The request is checked before a server starts, and nothing of Prefect's is imported before that.
        from flows.queue import times
        from flows.runs import products
        from flows.runs.places import FlowError

        requests = products.requests(experiments or [], overrides or [], seeds, priority)
        when = times.at(at) if at else None
        if not (requests or show or bump or cancel):
            raise FlowError("nothing to do; name experiments, or give --list, --bump or --cancel")
        _server()
        from flows.queue import queue as command

        with connected() as connection:
            if requests:
                for queued in command.submit(connection, requests, when):
                    print(f"queued {str(queued.id)[:8]} {queued.name}")
            for text, act in ((bump, command.bump), (cancel, command.cancel)):
                if text is not None:
                    print(act(connection, command.find(connection, text)))
            if show:
                table(command.rows(connection))


@app.command(rich_help_panel=LOOK)
def night(
    hours: Annotated[float, typer.Option(help="Length of the period to report, in hours before now.")] = 16.0,
    long: Annotated[
        bool, typer.Option("--long", help="Every evaluation, the cache, and each run against the best.")
    ] = False,
) -> None:
    """Report recent runs, the best first: score, duration, cost, and the reason of each failure."""
    _environment()
    with one_line_errors():
        _server()
        from flows.worker import night_report, night_store, night_text

        start = night_report.since(hours)
        with connected() as connection:
            queued = night_report.rows(connection, start)
            rows = night_report.ordered(queued + night_store.rows(start, night_store.known_keys()))
            night_text.publish(connection, rows, hours)
        for part in night_text.lines(rows, hours, long):
            if isinstance(part, str):
                print(part)
            else:
                table(part, one_line=not long)


@app.command(rich_help_panel=USE)
def restore(
    name: Annotated[str, typer.Argument(help="A branch exp/NAME, an experiment of `dvc exp show`, or a commit")],
    to: Annotated[Path | None, typer.Option(help="The new folder; by default .scratch/restored/NAME")] = None,
) -> None:
    """Restore a finished result with its files, in a git worktree of its own."""
    _environment()
    with one_line_errors():
        from flows.runs import restore as command

        folder = command.restore(name, to)
    print(f"{name} is in {folder}; `git worktree remove --force {folder}` removes it")


@app.command(rich_help_panel=CARE)
def doctor() -> None:
    """Check disk, GPU, versions, ports, locks, worktrees and dead runs; print each finding with its fix.

    The exit code is 1 if something is to be fixed.
    """
    _environment()
    with one_line_errors():
        from flows.worker import doctor as command

        findings = command.examine()
    table([{"": "!" if f.fix else "ok", "what": f.what, "found": f.found, "fix": f.fix} for f in findings])
    if any(f.fix for f in findings):
        raise typer.Exit(1)


@contextmanager
def connected() -> "Iterator[SyncPrefectClient]":
    """A client of the server; creates or updates the deployment first."""
    from flows.queue import deployment

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


def _environment() -> None:
    """Set this project's environment variables. Prefect reads them when it is imported, so this comes first."""
    with one_line_errors():
        from flows.runs import places

        os.environ.update(places.environment())


def _server() -> None:
    """Start the server if none answers. Prefect reads its address when it is imported, so this comes first."""
    from flows.worker import server

    server.ensure()
    os.environ["PREFECT_API_URL"] = server.address()


def _stage_command(name: str, module: str) -> Callable[[list[str] | None], None]:
    """The `main` of a module in `tasks`, called with the arguments of `arc NAME`; it has a help of its own."""

    def command(
        arguments: Annotated[
            list[str] | None, typer.Argument(autocompletion=completion.experiments_or_paths, hidden=True)
        ] = None,
    ) -> None:
        main = typer.Typer(add_completion=False)
        main.command()(importlib.import_module(f"tasks.{module}").main)
        main(arguments or [], prog_name=f"arc {name}")

    return command


_PASS_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
for _panel, _name, _module, _help in (
    (LOOK, "table", "commands.table", "Print the scores of the experiment in this checkout."),
    (LOOK, "compare", "commands.compare", "Compare experiments: intervals, paired differences, tasks won and lost."),
    (LOOK, "task", "commands.draw_task", "Draw a task: its attempts, the vote, and the denoising steps."),
    (LOOK, "ui", "commands.ui", "Start the pages of MLflow (results) and Prefect (the queue) on 127.0.0.1."),
    (USE, "solve", "commands.solve", "Predict the answers to an official ARC file with a checkpoint."),
    (USE, "publish", "publish", "Write the result in this checkout to the MLflow store."),
    (USE, "import", "commands.import_results", "Publish kept results, by default docs/baselines, to the MLflow store."),
    (RUN, "show", "commands.show_experiment", "Print what an EXPERIMENT stands for, and how it differs from another."),
    (RUN, "params", "params", "Print every key and value of the experiment in params.yaml."),
    (CARE, "bench", "commands.bench", "Measure how fast this machine trains and answers."),
):
    _command = _stage_command(_name, _module)
    app.command(_name, help=_help, context_settings=_PASS_ARGUMENTS, add_help_option=False, rich_help_panel=_panel)(
        _command
    )

if __name__ == "__main__":
    app()
