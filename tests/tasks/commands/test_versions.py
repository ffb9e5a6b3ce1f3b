"""`arc versions`, `arc show` and docs/versions.md against the presets, which are the independent side."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from model.config.experiment import Experiment
from tasks.commands import our_scores, show_experiment, versions
from tasks.commands.our_scores import Ours
from tasks.common import params
from tasks.common.documents import parse_yaml
from tasks.common.presets import parse_name
from tasks.ledger import facts as ledger
from tasks.ledger.facts import Published
from tests.conftest import ROOT, presets

FACTS = ledger.load()
WIDTH = 80
SECTION_6 = 69
"""Numbers in section 6 of the ledger that was kept by hand, counted there; a row here may stand for two of them."""


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@functools.cache
def resolved(name: str, overrides: tuple[str, ...] = ()) -> Experiment:
    values: Any = {**parse_name(name), "seed": 0}
    for assignment in overrides:
        values = params.override(values, assignment)
    return params.resolve(values, presets())


@functools.cache
def kept() -> dict[str, Ours]:
    """The scores of all kept results, which take a minute."""
    return our_scores.kept()


def test_every_version_of_the_presets_is_told_and_no_other() -> None:
    assert set(FACTS.versions) == set(presets()["versions"])
    assert next(iter(FACTS.versions)) == "v0"
    for version in FACTS.versions.values():
        assert version.against is None or version.against in FACTS.versions
        assert bool(version.commits) == bool(version.date), "a version is the lab's, with commits and a date, or ours"
        assert all(re.fullmatch("[0-9a-f]{8}", commit) for commit in version.commits.values())


@pytest.mark.parametrize("row", FACTS.published, ids=lambda row: f"{row.experiment}-{row.pair}-{row.score}")
def test_what_reproduces_a_score_exists_and_is_what_it_says(row: Published) -> None:
    given = (f"predict.checkpoints=[{row.checkpoint}]", f"predict.evaluations=[{row.evaluation}]", *row.set)
    experiment = resolved(row.experiment, given)
    evaluation = experiment.evaluations[row.evaluation]
    assert row.evaluation.startswith("votes") == (evaluation.answers.by != "attempts")
    if "128" in row.evaluation:
        assert evaluation.steps == experiment.train.noise.steps == 128
    if row.version in ("v0", "v1") and row.reproduced == "fully":
        assert evaluation.time_map == "raw-index", "the lab's levels before v2 (B1)"
    if evaluation.answers.by != "attempts" and row.reproduced == "fully":
        assert evaluation.transposed_sizes == "unswapped", "the lab's votes (B5)"
        assert evaluation.sizes == ("voted" if row.experiment.endswith("aa1-20x20") else "split-in-order")
    if row.checkpoint == "best":
        assert row.reproduced != "fully", "the lab's validation differs"
    if "/aa2" in row.experiment and row.reproduced == "fully":
        assert experiment.fetch.official_evaluation is not None, "172 test grids"
    if row.count:
        assert re.fullmatch(r"\d+/\d+ (tasks|grids|sizes)", row.count)
        solved, total = map(int, row.count.split()[0].split("/"))
        assert row.score == pytest.approx(100 * solved / total, abs=0.051)


def test_every_published_number_has_a_row() -> None:
    """The counts of section 6, and some of its numbers that a slip would lose."""
    assert len(FACTS.published) >= SECTION_6
    scores = {(row.version, row.score) for row in FACTS.published}
    told = {("v0", 16.2), ("v1", 20.2), ("v1", 23.5), ("v1", 2.1), ("v2", 18.2), ("v3", 20.2), ("v3", 19.8)}
    told |= {("v4", 12.25), ("v4", 1.8), ("v5", 6.9), ("v3-reverted", 16.1), ("v6", 12.0), ("v7", 7.6)}
    assert told <= scores | {("v7-temporal", 9.6)}


def test_what_a_fact_lacks_is_refused() -> None:
    row = {"experiment": "v9/smol/aa1", "checkpoint": "final", "evaluation": "votes", "score": 1, "reproduced": "near"}
    known = {"versions": {"v9": FACTS.versions["v0"]}, "reasons": {"r": "because"}}
    with pytest.raises(ValueError, match="near, but no reason is given"):
        ledger.Ledger.model_validate({**known, "published": [row]})
    with pytest.raises(ValueError, match="'x' is none of `reasons`"):
        ledger.Ledger.model_validate({**known, "published": [{**row, "why": ["x"]}]})
    with pytest.raises(ValueError, match="no version 'v8'"):
        ledger.Ledger.model_validate({**known, "published": [{**row, "why": ["r"], "experiment": "v8/smol/aa1"}]})


@pytest.mark.slow
def test_the_page_holds_what_the_commands_say() -> None:
    """docs/versions.md is what `arc versions --docs` writes; and what stands there was not written by hand."""
    text = (ROOT / versions.DOCS).read_text()
    ours = kept()
    assert versions.with_tables(text, FACTS, ours) == text
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines() if row.endswith(") |")}
    assert "| 13.0 [9.8–16.4], best-votes of [v3-smol-aa1](baselines/v3-smol-aa1) |" in rows["v3"]
    for name, version in FACTS.versions.items():
        assert f"\n### {name}\n" in text
        assert all(f"`{commit}`" in text for commit in version.commits.values())
    lines = [line for line in text.splitlines() if re.match(r"\| v[\d.a-z+-]+/", line)]
    assert len(lines) == len(FACTS.published)
    with pytest.raises(Exception, match="must hold the lines"):
        versions.with_tables("nothing", FACTS, ours)


def test_the_page_is_written_anew_from_the_facts_and_the_scores_that_stand_on_it(monkeypatch, tmp_path) -> None:
    """Our scores are read back from the page itself; `test_the_page_holds_what_the_commands_say` scores them again."""
    text = (ROOT / versions.DOCS).read_text()
    rows = re.findall(r"(?m)^\| (\S+) .*\| ([\d.]+) \[([\d.]+)–([\d.]+)\], (\S+) of \[(.*?)\]\(baselines/", text)
    assert len(rows) > 5
    ours = {}
    for version, score, low, high, pair, folder in rows:
        interval = float(low) / 100, float(high) / 100
        ours[folder] = Ours(f"{version}/size/dataset", folder, "0", pair, float(score) / 100, interval)
    changed = re.sub(r"(?m)^\| v3 .*\n", "", text)
    assert changed != text
    assert versions.with_tables(changed, FACTS, ours) == text
    (tmp_path / versions.DOCS).parent.mkdir(parents=True)
    (tmp_path / versions.DOCS).write_text(changed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(our_scores, "kept", lambda: ours)
    versions.main(docs=True)
    assert (tmp_path / versions.DOCS).read_text() == text


def test_the_command_lists_versions_or_every_score(monkeypatch, capsys) -> None:
    mine = Ours("v3+muon/smol/aa1", "v3+muon/smol/aa1 x", "0", "best-votes", 0.21, (0.2, 0.22))
    other = Ours("v4/smol/aa1", "v4", "0", "best-votes", 0.9, (0.8, 1.0))
    monkeypatch.setattr(our_scores, "find", lambda of=None: [o for o in (mine, other) if of in (None, o.version)])
    versions.main()
    assert capsys.readouterr().out == "\n".join(versions.overview(FACTS, [mine, other])) + "\n"
    versions.main(scores=True)
    assert capsys.readouterr().out == "\n".join(versions.numbers(FACTS, FACTS.published)) + "\n"
    lines = list(show_experiment.explained(FACTS, "v3"))
    assert lines[lines.index("ours, in %") + 1 :] == [f"  {mine.text}"]


def test_the_numbered_mistakes_that_the_code_cites_are_on_the_page() -> None:
    text = (ROOT / versions.DOCS).read_text()
    code = "".join(path.read_text() for room in ("model", "tasks") for path in (ROOT / room).rglob("*.py"))
    cited = set(re.findall(r"\bB\d+\b", code + ledger.FILE.read_text() + (ROOT / "presets.yaml").read_text()))
    assert {"B1", "B3", "B5"} <= cited
    assert cited <= set(re.findall(r"^\| (B\d+) \|", text, re.MULTILINE))
    sections = set(re.findall(r"[Ll]edger,? (\d\.\d)", code))
    assert {"2.2", "2.4"} <= sections
    assert all(f"**{section} " in text for section in sections)


def test_a_version_is_compared_in_a_line_and_our_scores_stand_beside() -> None:
    plain = Ours("v3/smol/aa1", "v3/smol/aa1", "0", "best-votes", 0.21, (0.2, 0.22))
    other = Ours("v3/smol/aa1", "v3/smol/aa1 +muon", "0", "best-votes", 0.19, (0.1, 0.3))
    elsewhere = Ours("v4/tiny/aa1-6x6", "v4/tiny/aa1-6x6", "0", "best-votes", 0.9, (0.8, 1.0))
    lines = list(versions.overview(FACTS, [elsewhere, plain, other]))
    by_name = {line.split()[0]: line for line in lines[1 : 1 + len(FACTS.versions)]}
    assert list(by_name) == list(FACTS.versions), "one line each"
    assert max(map(len, lines)) <= WIDTH
    assert by_name["v3"].split()[-3:] == ["20.2", "21.0", "votes-lab"]
    assert by_name["v4"].split()[-3:] == ["12.25", "-", "attempts"], "of another size: not compared"
    marked = "\n".join(versions.overview(FACTS, [other]))
    assert "19.0* votes-lab" in marked
    assert "* v3/smol/aa1 +muon seed 0: best-votes 19.0 [10.0–30.0]" in marked


@pytest.mark.slow
def test_the_kept_results_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setattr(our_scores, "_kept", lambda place: kept()[place.name])
    found = our_scores.find()
    assert len(found) == sum(folder.is_dir() for folder in (ROOT / "docs/baselines").iterdir())
    scores = [o.pass_at_2 for o in found]
    assert scores == sorted(scores, reverse=True)
    assert [
        (o.experiment, o.pair, round(100 * o.pass_at_2, 1)) for o in found if o.experiment.endswith("+20min/aa1")
    ] == [
        ("v8/mediom-deep+20min/aa1", "final-votes", 42.2),
        ("v8/mediom-deep+20min/aa1", "final-votes", 42.0),
        ("v8/mediom-deep+20min/aa1", "final-votes", 41.8),
        ("v8/mediom-deep+20min/aa1", "final-votes", 40.8),
        ("v8/mediom-wide+20min/aa1", "best-votes", 36.1),
        ("v8/mediom-wide+20min/aa1", "final-votes", 35.4),
        ("v8/smol+20min/aa1", "final-votes", 26.9),
        ("v8-one-step/smol+20min/aa1", "final-votes", 22.6),
        ("v8/mediom-deep+20min/aa1", "final-votes", 21.6),
        ("v8/mediom-wide+20min/aa1", "final-votes", 14.5),
    ]
    assert [o.title for o in found if o.title == o.experiment] == ["v8/smol+3min/aa1", "v8/mediom-deep+3min/aa1"]


@pytest.mark.parametrize("name", presets()["versions"])
def test_a_version_is_explained_within_the_width_of_a_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_scores, "find", lambda *_: [Ours(f"{name}/smol/aa1", "t " * 60, "0", "p", 0.1, (0.0, 0.2))])
    show_experiment.main(name)
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    version = FACTS.versions[name]
    said = " ".join(text.split())
    assert f"{name}: {version.change}" in said
    assert " ".join(version.what.split()) in said
    assert all(f"{row.score:.4g}" in said and row.pair in said for row in FACTS.of(name))
    if version.against:
        assert f"{name}/smol/aa1 against {version.against}/smol/aa1: " in said


@pytest.mark.parametrize("name", [f"{version}/smol/aa1" for version in presets()["versions"]])
def test_an_experiment_is_shown_within_the_width_of_a_terminal_and_reads_back(name: str) -> None:
    values = resolved(name).model_dump(mode="json")
    lines = list(show_experiment.marked(values, values))
    assert max(map(len, lines)) <= WIDTH
    assert not any("<-" in line for line in lines)
    assert parse_yaml("\n".join(lines), name) == values


def test_all_scores_fit_a_terminal_and_tell_their_reasons() -> None:
    lines = list(versions.numbers(FACTS, FACTS.published))
    assert max(map(len, lines)) <= WIDTH
    said = " ".join(" ".join(lines).split())
    assert all(f"{reason}: {text}" in said for reason, text in FACTS.reasons.items()), "and none is unused"


@pytest.mark.slow
def test_show_without_a_name_reads_params_and_marks_overrides(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("presets.yaml").write_text((ROOT / "presets.yaml").read_text())
    Path("params.yaml").write_text(
        "{version: v3, size: tiny, dataset: aa1-6x6, seed: 0, train: {optimizer: {name: muon}, warmup_steps: 40}}"
    )
    show_experiment.main(None, None, ["train.batch=32"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "title: v3/tiny/aa1-6x6 +muon batch=32 warmup=40"
    assert [" ".join(line.split()) for line in lines if "<-" in line] == [
        "name: muon # <- adamw",
        "warmup_steps: 40 # <- 50",
        "batch: 32 # <- 64",
    ]


def test_what_one_side_lacks_is_one_line() -> None:
    v1, v2 = (show_experiment.resolve(f"{version}/smol/aa1", []) for version in ("v1", "v2"))
    lines = list(show_experiment.compared(v2, v1))
    text = " ".join(" ".join(lines).split())
    assert "only v1/smol/aa1 has evaluations.attempts-raw-index, evaluations.repeated-votes" in text
    assert len(lines) <= 8
    assert max(map(len, lines)) <= WIDTH
    count = int(lines[0].split(": ")[1].split()[0])
    assert count == sum(line.startswith("  ") and not line.startswith("    ") for line in lines)
