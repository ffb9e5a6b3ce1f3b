"""The `arc` command. Each command imports what it needs when it runs, so that `arc --help` answers at once."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The laboratory for discrete-diffusion ARC solvers.")

Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the presets; may be given many times.")]


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


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="VERSION/SIZE/DATASET, such as v3/smol/aa1")],
    overrides: Set = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Run one experiment now, with or without a server, from a frozen copy of the code."""
    _environment()
    with one_line_errors():
        from flows.runs.request import Request
        from flows.worker import foreground as command

        command.run(Request.of(experiment, seed, overrides or [], "normal"))


@app.command()
def worker(
    stop: Annotated[bool, typer.Option("--stop", help="End the worker, whose trainings save, and the server.")] = False,
) -> None:
    """Execute queued runs until Ctrl-C. Starts the server if none answers, and first recovers from an earlier crash."""
    _environment()
    with one_line_errors():
        if stop:
            from flows.worker import stopping

            for line in stopping.stop():
                print(line, flush=True)
            return
        _server()
        os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
        os.environ.setdefault("PREFECT_WORKER_PREFETCH_SECONDS", "1")
        os.environ.setdefault("PREFECT_WORKER_CANCELLATION_POLL_SECONDS", "5")
        from flows.worker import worker as command

        command.work()


@app.command()
def queue(
    experiments: Annotated[list[str] | None, typer.Argument(help="VERSION/SIZE/DATASET, one or many")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds; every experiment runs with each of them, such as 0,1")] = "0",
    priority: Annotated[str, typer.Option(help="high or normal")] = "normal",
    at: Annotated[str | None, typer.Option(help="Start no earlier than HH:MM, or an ISO date and time.")] = None,
    overrides: Set = None,
    show: Annotated[
        bool, typer.Option("--list", help="List running and waiting runs in the order of execution.")
    ] = False,
    bump: Annotated[str | None, typer.Option(help="Number or id of a waiting run that is moved to the front.")] = None,
    cancel: Annotated[str | None, typer.Option(help="Number or id of a run to cancel; a training saves first.")] = None,
) -> None:
    """Queue experiments for `arc worker`, or manage the queue."""
    _environment()
    with one_line_errors():
        _server()
        from typing import get_args

        from flows.queue import queue as command
        from flows.queue import times
        from flows.runs.places import FlowError
        from flows.runs.request import Priority, Request

        if priority not in get_args(Priority):
            raise FlowError(f"--priority is {priority!r}; allowed are high and normal")
        try:
            numbers = [int(seed) for seed in seeds.split(",")]
        except ValueError:
            raise FlowError(f"--seeds {seeds!r} is not a list of integers; write them like 0,1") from None
        requests = [
            Request.of(name, seed, overrides or [], priority)  # type: ignore[arg-type]  # checked above
            for name in experiments or []
            for seed in numbers
        ]
        when = times.at(at) if at else None
        if not (requests or show or bump or cancel):
            raise FlowError("nothing to do; name experiments, or give --list, --bump or --cancel")
        with connected() as connection:
            if requests:
                for queued in command.submit(connection, requests, when):
                    print(f"queued {str(queued.id)[:8]} {queued.name}")
            for text, act in ((bump, command.bump), (cancel, command.cancel)):
                if text is not None:
                    print(act(connection, command.find(connection, text)))
            if show:
                table(command.rows(connection))


@app.command()
def night(
    hours: Annotated[float, typer.Option(help="Length of the period to report, in hours before now.")] = 16.0,
) -> None:
    """Report recent runs: duration, cost, scores, failures with their reasons, and the difference to the best run."""
    _environment()
    with one_line_errors():
        _server()
        from flows.worker import night_report

        with connected() as connection:
            rows = night_report.rows(connection, night_report.since(hours))
            night_report.publish(connection, rows)
        table(rows)


@app.command()
def doctor() -> None:
    """Check disk, GPU, versions, ports, locks, worktrees and dead runs; print each finding with its fix."""
    _environment()
    with one_line_errors():
        from flows.worker import doctor as command

        findings = command.examine()
    table([{"": "!" if f.fix else "ok", "what": f.what, "found": f.found, "fix": f.fix} for f in findings])


@app.command()
def publish() -> None:
    """Publish the results of all exp/ branches that the MLflow store lacks, such as after its database was lost."""
    _environment()
    with one_line_errors():
        from flows.worker import kept_results

        lines = list(kept_results.publish_all())
        print("\n".join(line for line, _ in lines) or "the MLflow store holds the results of all exp/ branches")
        if not all(done for _, done in lines):
            sys.exit(1)


@contextmanager
def connected() -> "Iterator[SyncPrefectClient]":
    """A client of the server; creates or updates the deployment first."""
    from flows.queue import deployment

    with deployment.client() as connection:
        deployment.ensure(connection)
        yield connection


def table(rows: list[dict[str, str]]) -> None:
    """Print rows as a table; the keys of the first row are the header."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        print("nothing")
        return
    shown = Table(*rows[0])
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


def _stage_command(name: str, module: str) -> Callable[[typer.Context], None]:
    """The `main` of a module in `tasks`, called with the arguments of `arc NAME`; it has a help of its own."""

    def command(context: typer.Context) -> None:
        main = typer.Typer(add_completion=False)
        main.command()(importlib.import_module(f"tasks.{module}").main)
        main(context.args, prog_name=f"arc {name}")

    return command


_PASS_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
for _name, _module, _help in (
    ("compare", "compare", "Compare experiments: scores with intervals, paired differences, tasks won and lost."),
    ("solve", "solve", "Predict the answers to an official ARC file with a checkpoint."),
    ("list", "list_runs", "List the runs in the MLflow store with scores and intervals, best first."),
    ("show", "show_experiment", "Print what a name or params.yaml stands for, how it differs, or what a version is."),
    (
        "versions",
        "versions",
        "List every version: what changed, the lab's commit and score, ours, and what reproduces.",
    ),
    ("import", "import_results", "Publish kept results, by default those of docs/baselines, to the MLflow store."),
    ("task", "draw_task", "Draw a task: its attempts, the vote, and the denoising steps."),
):
    _command = _stage_command(_name, f"commands.{_module}")
    app.command(_name, help=_help, context_settings=_PASS_ARGUMENTS, add_help_option=False)(_command)

if __name__ == "__main__":
    app()
