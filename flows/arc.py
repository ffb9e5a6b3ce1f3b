"""The `arc` command: one name for what is done by hand. Each command imports what it needs when it runs."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def _root() -> None:
    """The laboratory for discrete-diffusion ARC solvers."""


if __name__ == "__main__":
    app()
