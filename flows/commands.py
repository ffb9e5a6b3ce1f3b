"""The commands of runs and the queue, as a terminal sees them. Imports what it needs when it runs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the presets; may be given many times.")]


@contextmanager
def said() -> Iterator[None]:
    """End with one line where a mistake was expected."""
    from flows.runs.places import FlowError
    from tasks.common.params import ConfigurationError

    try:
        yield
    except (FlowError, ConfigurationError) as error:
        sys.exit(f"arc: {error}")


def run(
    experiment: Annotated[str, typer.Argument(help="VERSION/SIZE/DATASET, such as v3/smol/aa1")],
    overrides: Set = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Run one experiment now, as a flow, with or without a server; frozen, in a worktree of its own."""
    _environment()
    with said():
        from flows.runs.request import Request
        from flows.worker import foreground as command

        command.run(Request.of(experiment, seed, overrides or [], "normal"))


def worker() -> None:
    """Work off the queue: starts the server if it is missing, recovers what a crash left, and works until Ctrl-C."""
    _environment()
    with said():
        _server()
        os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
        os.environ.setdefault("PREFECT_WORKER_PREFETCH_SECONDS", "1")
        os.environ.setdefault("PREFECT_WORKER_CANCELLATION_POLL_SECONDS", "5")
        from flows.worker import worker as command

        command.work()


def queue(
    experiments: Annotated[list[str] | None, typer.Argument(help="VERSION/SIZE/DATASET, one or many")] = None,
    seeds: Annotated[str, typer.Option(help="Every experiment with each of these, such as 0,1")] = "0",
    priority: Annotated[str, typer.Option(help="high or normal")] = "normal",
    at: Annotated[str | None, typer.Option(help="Not before HH:MM, or an ISO date and time.")] = None,
    overrides: Set = None,
    show: Annotated[bool, typer.Option("--list", help="Show what runs and waits, in its order.")] = False,
    bump: Annotated[str | None, typer.Option(help="Number or id: before all others.")] = None,
    cancel: Annotated[str | None, typer.Option(help="Number or id: end it; it saves first.")] = None,
) -> None:
    """Queue experiments for `arc worker`, or manage the queue."""
    _environment()
    with said():
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
            raise FlowError(f"--seeds {seeds!r} are no numbers; allowed are such as 0,1") from None
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
                for made in command.submit(connection, requests, when):
                    print(f"queued {str(made.id)[:8]} {made.name}")
            for text, act in ((bump, command.bump), (cancel, command.cancel)):
                if text is not None:
                    print(act(connection, command.find(connection, text)))
            if show:
                table(command.rows(connection))


def night(
    hours: Annotated[float, typer.Option(help="So many hours back.")] = 16.0,
) -> None:
    """What ran, how long, what it cost, what came out, what failed and why, against the best so far."""
    _environment()
    with said():
        _server()
        from flows.worker import overnight as command

        with connected() as connection:
            found = command.rows(connection, command.since(hours))
            command.publish(connection, found)
        table(found)


def doctor() -> None:
    """Look for what is wrong: disk, GPU, versions, ports, locks, worktrees, dead runs; each finding with its mend."""
    _environment()
    with said():
        from flows.worker import doctor as command

        findings = command.examine()
    table([{"": "!" if f.mend else "ok", "what": f.what, "found": f.found, "mend": f.mend} for f in findings])


@contextmanager
def connected() -> "Iterator[SyncPrefectClient]":
    """A client of the server, which is started if need be, with the deployment up to date."""
    from flows.queue import deployment

    with deployment.client() as connection:
        deployment.ensure(connection)
        yield connection


def table(rows: list[dict[str, str]]) -> None:
    """Print rows under their names."""
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
    """Before Prefect is imported, which reads it once."""
    with said():
        from flows.runs import places

        os.environ.update(places.environment())


def _server() -> None:
    """A server that answers, before Prefect is imported, which reads its address once."""
    from flows.worker import server

    server.ensure()
    os.environ["PREFECT_API_URL"] = server.address()


COMMANDS: tuple[Callable[..., None], ...] = (run, worker, queue, night, doctor)
