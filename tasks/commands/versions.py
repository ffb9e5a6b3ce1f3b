"""`arc versions`: every version in a line; what reproduces each score of the lab; the tables of docs/versions.md."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from model.scoring.wording import interval, percent
from tasks.commands import our_scores
from tasks.commands.our_scores import Ours
from tasks.common.stage import StageError, stage
from tasks.ledger import facts as ledger
from tasks.ledger.facts import Ledger, Published

WIDTH = 80
DOCS = Path("docs/versions.md")
BEGIN, END = "<!-- from tasks/ledger/versions.yaml: arc versions --docs -->", "<!-- end -->"


@stage("versions")
def main(
    scores: Annotated[bool, typer.Option("--scores", help="Every score of the lab, and what reproduces it.")] = False,
    docs: Annotated[bool, typer.Option("--docs", help="Write the tables of docs/versions.md anew.")] = False,
) -> None:
    """List the versions: what changed, the lab's commit, its highest score, ours, and what reproduces the lab's."""
    facts = ledger.load()
    if docs:
        DOCS.write_text(with_tables(DOCS.read_text(), facts, our_scores.kept()))
        return
    lines = numbers(facts, facts.published) if scores else overview(facts, our_scores.find())
    print("\n".join(lines))


def overview(facts: Ledger, ours: Iterable[Ours]) -> Iterator[str]:
    """A line for each version, at most 80 characters; then where our scores come from."""
    row = "{:<17} {:<8} {:<30} {:>5} {:>5} {}".format
    yield row("version", "commit", "change against the one before", "lab", "ours", "lab's by")
    scores, notes = list(ours), []
    for name, version in facts.versions.items():
        best = facts.highest(name)
        mine = next((o for o in scores if (o.experiment == best.experiment if best else _of(o) == name)), None)
        if mine:
            notes.append(mine)
        lab = f"{best.score:.4g}" if best else "-"
        text = f"{100 * mine.pass_at_2:.1f}" + ("*" if mine.title != mine.experiment else " ") if mine else "- "
        yield row(name, version.commit, version.change, lab, text, best.evaluation if best else "").rstrip()
    yield ""
    yield from wrapped(
        "lab: its highest published score in %, and the evaluation that stands for it; `arc versions --scores` has all "
        "of them, `arc show v4` explains a version. ours: our highest of the same size and data set, or of any; * with "
        "other values than the version's."
    )
    for mine in notes:
        yield from wrapped(f"{'*' if mine.title != mine.experiment else ' '} {mine.text}", rest=4)


def wrapped(text: str, first: int = 0, rest: int = 0, width: int = WIDTH) -> list[str]:
    """Lines of a paragraph, indented by `first` and `rest` spaces; words are never broken."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _of(ours: Ours) -> str:
    return ours.experiment.split("/")[0]


def numbers(facts: Ledger, rows: Iterable[Published]) -> Iterator[str]:
    """Scores by experiment: per cent, count, checkpoint-evaluation, overrides; then why some are not the lab's own."""
    chosen, used = list(rows), dict[str, None]()
    for experiment in dict.fromkeys(row.experiment for row in chosen):
        yield experiment
        for row in chosen:
            if row.experiment != experiment:
                continue
            used |= dict.fromkeys(row.why)
            status = "" if row.reproduced == "fully" else f"{row.reproduced}: "
            remarks = f"  ({status}{', '.join(row.why)})" if row.why else ""
            yield f"  {row.score:>5.4g} {row.count:<12} {row.pair}{remarks}"
            settings = " ".join(f"--set\0{assignment}" for assignment in row.set)
            yield from (line.replace("\0", " ") for line in wrapped(settings, first=21, rest=21))
    for reason in used:
        yield from wrapped(f"{reason}: {facts.reasons[reason]}", rest=4)


def with_tables(text: str, facts: Ledger, kept: Mapping[str, Ours]) -> str:
    """The page with its part between BEGIN and END made from the facts. Raises StageError if it has no such part."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise StageError(f"{DOCS} must hold the lines {BEGIN} and {END} once")
    return pattern.sub(lambda _: "\n".join([BEGIN, "", *_page(facts, kept), END]), text)


def _page(facts: Ledger, kept: Mapping[str, Ours]) -> Iterator[str]:
    yield "| version | date | the lab's commits | change | against | highest score | ours, 95 % |"
    yield "|---|---|---|---|---|---|---|"
    for name, version in facts.versions.items():
        best = facts.highest(name)
        commits = ", ".join(f"`{commit}` {part}" for part, commit in version.commits.items()).replace(" all", "")
        shown = f"{best.score:.4g} %, `{best.experiment}` `{best.pair}`" if best else ""
        same = best.experiment.replace("/", "-") if best else ""
        folder = same if same in kept else next((place for place, mine in kept.items() if _of(mine) == name), "")
        ours = f"{percent(kept[folder].pass_at_2)} [{interval(kept[folder].ci95)}]" if folder else ""
        where = f", {kept[folder].pair} of [{folder}](baselines/{folder})" if folder else ""
        cells = [name, version.date or "", commits, version.change, version.against or "", shown, ours + where]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    for name, version in facts.versions.items():
        yield from (f"### {name}", "")
        yield from wrapped(version.what, width=120)
        yield ""
        yield from wrapped(f"Why: {version.why}", width=120)
        yield ""
        for mistake in version.mistakes:
            yield from wrapped(f"- {mistake}", rest=2, width=120)
        if version.mistakes:
            yield ""
    yield from ("## Every published score", "", *wrapped(_SCORES, width=120), "")
    counts = {status: sum(row.reproduced == status for row in facts.published) for status in ("fully", "near", "not")}
    yield f"{len(facts.published)} scores: {', '.join(f'{count} {status}' for status, count in counts.items())}."
    yield ""
    yield "| experiment | score % | by | reproducible | remarks |"
    yield "|---|---|---|---|---|"
    for row in facts.published:
        settings = "".join(f" `--set {assignment}`" for assignment in row.set)
        count = f" ({row.count})" if row.count else ""
        remarks = facts.remarks(row)
        yield f"| {row.experiment} | {row.score:.4g}{count} | `{row.pair}`{settings} | {row.reproduced} | {remarks} |"
    yield ""


_SCORES = (
    "A score is the mean over tasks in per cent, with partial credit for tasks of several test grids, unless a count "
    "stands beside it. `fully`: every setting that is known, mistakes of inference included, is the lab's, on our "
    "network; `near`: all but what the remark says; `not`: it cannot be had, and the remark says why. The column `by` "
    "is checkpoint-evaluation: `arc run EXPERIMENT --set 'predict.evaluations=[EVALUATION]'` with the settings named "
    "here makes the score of that name."
)


if __name__ == "__main__":
    typer.run(main)
