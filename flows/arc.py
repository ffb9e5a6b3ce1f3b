"""The `arc` command: one name for what is done by hand. Each command imports what it needs when it runs."""

import typer

from flows import commands

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def _root() -> None:
    """The laboratory for discrete-diffusion ARC solvers."""


for _command in commands.COMMANDS:
    app.command()(_command)

if __name__ == "__main__":
    app()
