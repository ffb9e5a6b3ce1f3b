"""The `arc` command: one name for what is done by hand. Each command imports what it needs when it runs."""

import importlib
from collections.abc import Callable

import typer

from flows import commands

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def _root() -> None:
    """The laboratory for discrete-diffusion ARC solvers."""


for _command in commands.COMMANDS:
    app.command()(_command)


def _of_tasks(name: str, module: str) -> Callable[[typer.Context], None]:
    """The `main` of a module of tasks as a command, with its own arguments and help."""

    def command(context: typer.Context) -> None:
        main = typer.Typer(add_completion=False)
        main.command()(importlib.import_module(f"tasks.{module}").main)
        main(context.args, prog_name=f"arc {name}")

    return command


_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
for _name, _module, _help in (
    (
        "compare",
        "commands.compare",
        "Compare experiments: scores with intervals, paired differences, tasks won and lost.",
    ),
    ("solve", "commands.solve", "Answer an official ARC file with a checkpoint."),
    ("show", "commands.show", "What VERSION/SIZE/DATASET stands for, its parameters, and what differs from another."),
    ("task", "commands.task", "Draw a task, its attempts, the vote and the denoising."),
):
    app.command(_name, help=_help, context_settings=_PASSED_ON, add_help_option=False)(_of_tasks(_name, _module))

if __name__ == "__main__":
    app()
