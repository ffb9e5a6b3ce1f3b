"""`arc night` and its artifact in Prefect: one line a run, the score first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate

from flows.queue import deployment, flow_runs
from flows.worker import hold, night_report, server
from flows.worker.night_report import Row, against, every_score, percent


def lines(rows: Sequence[Row], total: str, long: bool) -> Iterator[str | list[dict[str, str]]]:
    """What the terminal shows: the summary `total`, the table, and the best run against the best before it."""
    yield total
    if not rows:
        return
    scores = {row.run: row.scores for row in rows} | every_score()
    yield [_long(row, scores) if long else _short(row) for row in rows]
    if comparison := best(rows, scores):
        yield comparison


def summary(rows: Sequence[Row], hours: float) -> str:
    """Number of runs and their cost."""
    failed = sum(row.state.startswith(("Failed", "Crashed")) for row in rows)
    cost = sum(row.gpu_minutes for row in rows)
    return f"{len(rows)} runs in the last {hours:g} hours, {failed} failed, {cost:.1f} GPU-minutes"


def queue(connection: SyncPrefectClient) -> str:
    """What still waits, and why nothing starts where the queue is held; empty if nothing waits."""
    waiting = len(flow_runs.runs(connection, *flow_runs.WAITING))
    held = connection.read_work_pool(deployment.POOL).description or ""
    return (f", {waiting} waiting" if waiting else "") + (f"; {held}" if held.startswith(hold.HELD) else "")


def best(rows: Sequence[Row], scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The best of `rows` against the best of all earlier ones on the same evaluation and tasks; empty without a score.

    `scores` are by run and evaluation, those of `rows` among them.
    """
    top = max(rows, key=lambda row: row.pass_at_2)
    if not top.scores:
        return ""
    recent = {row.run for row in rows} - {top.run}
    earlier = {run: run_scores for run, run_scores in scores.items() if run not in recent}
    difference = against(top.scores[top.headline], top.headline, top.run, earlier)
    return f"best: {top.name}: " + (difference or f"{top.headline} {top.score}, with nothing earlier on the same tasks")


def markdown(rows: Sequence[Row], page: str) -> str:
    """The table in Markdown, each name a link to the run's page on the server `page`."""
    if not rows:
        return "Nothing ran."

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    head = ("pass@2 %", "run", "why", "took", "GPU-min")
    table = [line(head), line("---" for _ in head)]
    for row in rows:
        name = f"[{row.name}]({page}{row.page})" if row.page else row.name
        why = row.why if row.why or row.state == "Completed" else row.state
        table.append(line((row.score or "–", name, why, row.took, f"{row.gpu_minutes:.1f}")))
    return "\n".join(table)


def publish(connection: SyncPrefectClient, rows: Sequence[Row], hours: float = night_report.HOURS) -> str:
    """Publish the table as the Prefect artifact `night`. Returns its summary."""
    text = [summary(rows, hours) + queue(connection), markdown(rows, server.address().removesuffix("/api"))]
    if rows and (comparison := best(rows, {row.run: row.scores for row in rows} | every_score())):
        text.append(comparison)
    content = ArtifactCreate(key="night", type="markdown", description=text[0], data="\n\n".join(text))
    connection.create_artifact(content)
    return text[0]


def _short(row: Row) -> dict[str, str]:
    return {
        "pass@2 %": row.score,
        "run": row.name,
        "why": row.why if row.why or row.state == "Completed" else row.state,
        "took": row.took,
        "GPU-min": f"{row.gpu_minutes:.1f}",
    }


def _long(row: Row, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    differences = (against(score, name, row.run, scores) for name, score in row.scores.items())
    return {
        "run": row.name,
        "state": row.state,
        "took": row.took,
        "GPU-min": f"{row.gpu_minutes:.1f}",
        "from cache": row.cached,
        "pass@2": "; ".join(f"{name} {percent(score)}" for name, score in row.scores.items()),
        "against the best": "; ".join(filter(None, differences)),
        "why": row.why,
    }
