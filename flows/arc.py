"""The `arc` command. Each command imports what it needs when it runs, so that `arc --help` answers at once."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from flows import completion
from flows.console import connected, environment, one_line_errors, server, stage_command, table

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


def _version(requested: bool) -> None:
    if requested:
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
    nodes: Annotated[int, typer.Option(min=1, help="Machines to train on; the others are workers of a cluster.")] = 1,
    meeting: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="With --nodes: where the others reach this machine.")
    ] = "",
) -> None:
    """Run one experiment now, with or without a server, from a frozen copy of the code."""
    environment()
    with one_line_errors():
        from flows.runs import products
        from flows.runs.places import FlowError
        from flows.worker import foreground as command

        requests = products.requests([experiment], overrides or [], str(seed), "normal")
        if len(requests) > 1:
            raise FlowError(f"these are {len(requests)} runs, and `arc run` makes one; `arc queue` takes them all")
        if meeting and nodes == 1:
            raise FlowError(f"--meeting is {meeting!r}, but this machine trains alone; give --nodes too")
        variables: dict[str, str] = {}
        if nodes > 1:
            server()
            from flows.queue import several_nodes

            with connected() as connection:
                variables = several_nodes.ask(connection, requests[0], nodes, meeting)
        command.run(requests[0], variables)


@app.command(rich_help_panel=RUN)
def worker(
    stop: Annotated[bool, typer.Option("--stop", help="End the worker, whose trainings save, and the server.")] = False,
    at: Annotated[
        str, typer.Option("--server", metavar="URL", help="Prefect server to work for; `arc join` saves one.")
    ] = "",
) -> None:
    """Execute queued runs until Ctrl-C. Starts the server if none answers, and first recovers from an earlier crash."""
    environment(at)
    with one_line_errors():
        if stop:
            from flows.worker import stopping

            for line in stopping.stop():
                print(line, flush=True)
            return
        server()
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
    on: Annotated[str, typer.Option(help="Kind of machine that may run it: any, gpu or cpu.")] = "any",
    show: Annotated[
        bool, typer.Option("--list", help="List running and waiting runs in the order of execution.")
    ] = False,
    bump: Annotated[str | None, typer.Option(help="Number or id of a waiting run that is moved to the front.")] = None,
    cancel: Annotated[str | None, typer.Option(help="Number or id of a run to cancel; a training saves first.")] = None,
) -> None:
    """Queue experiments for `arc worker`, or manage the queue."""
    environment()
    with one_line_errors():
        # The request is checked before a server starts, and nothing of Prefect's is imported before that.
        from flows.queue import times
        from flows.runs import products
        from flows.runs.places import FlowError

        requests = products.requests(experiments or [], overrides or [], seeds, priority, on)
        when = times.at(at) if at else None
        if not (requests or show or bump or cancel):
            raise FlowError("nothing to do; name experiments, or give --list, --bump or --cancel")
        server()
        from flows.queue import queue as command

        acts = ((bump, command.bump), (cancel, command.cancel))
        with connected() as connection:
            chosen = [(act, command.find(connection, text)) for text, act in acts if text is not None]
            for queued in command.submit(connection, requests, when) if requests else ():
                print(f"queued {str(queued.id)[:8]} {queued.name}")
            for act, run in chosen:
                print(act(connection, run))
            if show:
                table(command.rows(connection))


@app.command(rich_help_panel=LOOK)
def night(
    hours: Annotated[float, typer.Option(help="Length of the period to report, in hours before now.", min=0.0)] = 16.0,
    long: Annotated[
        bool, typer.Option("--long", help="Every evaluation, the cache, and each run against the best.")
    ] = False,
) -> None:
    """Report recent runs, the best first: score, duration, cost, and the reason of each failure."""
    environment()
    with one_line_errors():
        server()
        from flows.cluster import share
        from flows.worker import night_report, night_store, night_text

        for line in share.receive():
            print(line, file=sys.stderr)
        start = night_report.since(hours)
        with connected() as connection:
            rows = night_report.ordered(night_report.rows(connection, start) + night_store.reachable_rows(start))
            total = night_text.publish(connection, rows, hours)
        for part in night_text.lines(rows, total, long):
            print(part) if isinstance(part, str) else table(part, one_line=not long)


@app.command(rich_help_panel=USE)
def restore(
    name: Annotated[str, typer.Argument(help="A branch exp/NAME, an experiment of `dvc exp show`, or a commit")],
    to: Annotated[Path | None, typer.Option(help="The new folder; by default .scratch/restored/NAME")] = None,
) -> None:
    """Restore a finished result with its files, in a git worktree of its own."""
    environment()
    with one_line_errors():
        from flows.runs import restore as command

        folder = command.restore(name, to)
    print(f"{name} is in {folder}; `git worktree remove --force {folder}` removes it")


@app.command(rich_help_panel=CARE)
def join(
    url: Annotated[str, typer.Argument(help="Address of the Prefect server, such as http://127.0.0.1:4300")] = "",
    mlflow: Annotated[str, typer.Option(help="Address of the shared MLflow server.")] = "",
    remote: Annotated[str, typer.Option("--git", help="Name of the shared git remote.")] = "origin",
    data: Annotated[str, typer.Option(help="The shared DVC remote: a folder, s3://... or ssh://...")] = "",
    secret: Annotated[
        Path | None, typer.Option(help="File of mode 0600 with the server's secret, else PREFECT_API_AUTH_STRING.")
    ] = None,
    saves: Annotated[
        str,
        typer.Option(
            "--share-saves", metavar="MINUTES", help="Send saves of trainings to the DVC remote, at most this often."
        ),
    ] = "",
    leave: Annotated[bool, typer.Option("--leave", help="Forget the cluster; git's and DVC's remotes stay.")] = False,
) -> None:
    """Set this clone up to work with others on one queue, after a check of each piece; docs/cluster.md explains it."""
    inherited = os.environ.get("PREFECT_API_AUTH_STRING", "")  # Before it becomes that of this clone's own server.
    environment()
    with one_line_errors():
        from flows.cluster import join as command
        from flows.runs.places import FlowError

        if leave:
            command.leave()
            print("this clone is on its own again")
            return
        if not url:
            raise FlowError("name the server, such as `arc join http://127.0.0.1:4300`, or give --leave")
        rows = command.join(url, mlflow, remote, data, secret or inherited, saves)
    table([{"": "!" if fix else "ok", "what": piece, "found": result, "fix": fix} for piece, result, fix in rows])
    if any(fix for _, _, fix in rows):
        sys.exit("arc: not joined, and nothing was changed; fix the marked pieces first")
    print("joined: `arc worker` takes runs from the queue, `arc queue` adds some, `arc night` shows all")


@app.command(rich_help_panel=CARE)
def doctor() -> None:
    """Check disk, GPU, versions, ports, locks, worktrees and dead runs; print each finding with its fix.

    The exit code is 1 if something is to be fixed.
    """
    environment()
    with one_line_errors():
        from flows.worker import server as running

        running.find()
        if running.answers() and running.ours():
            os.environ["PREFECT_API_URL"] = running.address()  # Before Prefect is imported; else it starts its own.
        from flows.worker import doctor as command

        findings = command.examine()
    table([{"": "!" if f.fix else "ok", "what": f.what, "found": f.found, "fix": f.fix} for f in findings])
    if any(f.fix for f in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=USE)
def publish() -> None:
    """Publish the results of all exp/ branches that the MLflow store lacks, such as after its database was lost."""
    environment()
    with one_line_errors():
        from flows.worker import kept_results

        lines = list(kept_results.publish_all())
        print("\n".join(line for line, _ in lines) or "the MLflow store holds the results of all exp/ branches")
        if not all(done for _, done in lines):
            sys.exit(1)


_PASS_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
for _panel, _name, _module, _help in (
    (LOOK, "table", "commands.table", "Print the scores of the experiment in this checkout."),
    (LOOK, "list", "commands.list_runs", "List the runs in the MLflow store with scores and intervals, best first."),
    (LOOK, "compare", "commands.compare", "Compare experiments: intervals, paired differences, tasks won and lost."),
    (LOOK, "task", "commands.draw_task", "Draw a task: its attempts, the vote, and the denoising steps."),
    (LOOK, "ui", "servers.ui", "Start the pages of MLflow (results) and Prefect (the queue) on 127.0.0.1."),
    (USE, "solve", "commands.solve", "Predict the answers to an official ARC file with a checkpoint."),
    (USE, "export", "commands.export", "Write a checkpoint of a quarter of the size, to hand on."),
    (USE, "pool", "commands.pool", "Pool the votes of several trainings or checkpoints as an evaluation of its own."),
    (USE, "import", "commands.import_results", "Publish kept results, by default docs/baselines, to the MLflow store."),
    (RUN, "show", "commands.show_experiment", "Print what a name or a version stands for, and how it differs."),
    (
        RUN,
        "versions",
        "commands.versions",
        "List every version: what changed, the lab's commit and score, ours, and what reproduces.",
    ),
    (RUN, "params", "params", "Print every key and value of the experiment in params.yaml."),
    (CARE, "bench", "commands.bench", "Measure how fast this machine trains and answers."),
):
    _command = stage_command(_name, _module)
    app.command(_name, help=_help, context_settings=_PASS_ARGUMENTS, add_help_option=False, rich_help_panel=_panel)(
        _command
    )

if __name__ == "__main__":
    app()
