"""`arc table`: the scores of the experiment in this checkout, and what its training cost."""

from typing import Annotated

import typer

from tasks.common.params import resolved
from tasks.common.stage import stage
from tasks.files import cost
from tasks.publish import code
from tasks.reporting import score_table


@stage("table")
def main(
    long: Annotated[bool, typer.Option("--long", help="Add how much is copied, and how the denoising went.")] = False,
) -> None:
    """Print the score table, with commit, device and duration of the training, and what to open next."""
    score_table.main(long)
    commit = code()
    changed = "+" if commit.get("mlflow.source.git.dirty") == "true" else ""
    parts = [f"commit {commit['mlflow.source.git.commit'][:9]}{changed}"] if commit else []
    if spent := cost.read(resolved()):
        parts.append(f"trained for {spent['seconds'] / 60:.1f} min on {spent['device']}")
    print(", ".join(parts))


if __name__ == "__main__":
    typer.run(main)
