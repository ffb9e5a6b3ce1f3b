"""What the page of a study says of its claims."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from model.scoring.statistics import paired_difference
from tasks.commands import claims
from tasks.commands.claims import Claim
from tasks.common.presets import ConfigurationError
from tests.conftest import ROOT

STUDIES = ROOT / "docs" / "studies"
NAMES = [file.name.removesuffix(claims.SUFFIX) for file in sorted(STUDIES.glob(f"*{claims.SUFFIX}"))]


def score(solved: list[bool]) -> dict[str, object]:
    return {"tasks": {f"{i:08}": [{"solved": value}] for i, value in enumerate(solved)}}


def scores(won: int, lost: int, same: int) -> dict[str, dict[str, object]]:
    """Two results over the same tasks: b solves `won` tasks that a does not, and the other way `lost`."""
    rest = [i % 2 == 0 for i in range(same)]
    return {
        "a": score([False] * won + [True] * lost + rest),
        "b": score([True] * won + [False] * lost + rest),
    }


@pytest.mark.parametrize(
    ("won", "lost", "expects", "says"),
    [
        (30, 5, "higher", "holds"),
        (30, 5, "lower", "**the opposite holds**"),
        (5, 30, "lower", "holds"),
        (0, 0, "higher", "inconclusive (no difference at all)"),
    ],
)
def test_a_claim_holds_where_the_paired_difference_is_clear(won, lost, expects, says):
    [found] = claims.findings([Claim("c", expects, ("a",), ("b",))], scores(won, lost, 200))
    assert (found.won, found.lost, found.verdict) == (won, lost, says)
    assert found.difference.mean == pytest.approx((won - lost) / (won + lost + 200))
    # One claim: no correction. With one grid a task the test is the sign test of the tasks that differ.
    exact = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert found.p_holm == pytest.approx(exact, abs=0.01)


def test_an_unclear_claim_says_how_many_tasks_would_show_it():
    """By simulation: that many tasks show such a difference in about four of five studies."""
    won, lost, same = 12, 8, 180
    [found] = claims.findings([Claim("c", "higher", ("a",), ("b",))], scores(won, lost, same))
    needed = int(found.verdict.split("(")[1].split(" ")[0].replace(",", ""))
    draws = np.random.default_rng(0).multinomial(needed, np.array([won, lost, same]) / 200, size=4000)
    mean = (draws[:, 0] - draws[:, 1]) / needed
    error = np.sqrt(((draws[:, 0] + draws[:, 1]) / needed - mean**2) / needed)
    assert np.mean(mean / error > 1.96) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("apart", [4, 40])
def test_seeds_that_vary_take_more_tasks_or_more_seeds(apart):
    """Two seeds a side; of b's, the first solves `apart` tasks more than the second."""
    better, worse = [i < 60 + apart // 2 for i in range(400)], [i < 60 - apart // 2 for i in range(400)]
    a = [i < 50 or 90 <= i < 94 for i in range(400)]
    given = {"a/v": score(a), "c/v": score(a), "b/v": score(better), "d/v": score(worse)}
    [found] = claims.findings([Claim("c", "higher", ("a/v", "c/v"), ("b/v", "d/v"))], given)
    error = found.difference.seed_error
    assert found.difference.mean == pytest.approx(6 / 400)
    if apart == 40:
        assert found.verdict == "inconclusive (more seeds)"
        assert 2.8 * error > found.difference.mean, "with no number of tasks"
        return
    needed = int(found.verdict.split("(")[1].split(" ")[0].replace(",", ""))
    values = np.mean([better, worse], 0) - np.array(a)
    assert found.difference.mean / np.hypot(values.std() / np.sqrt(needed), error) == pytest.approx(2.8, rel=0.01)


def test_pictures_are_of_arc_agi_1_and_growth_of_final_votes():
    study = claims.Study("title", ["x"], [], "", "growth.png")
    given = {"x/final-votes-measured": {"dataset": "aa1", "tasks": {"a": [{}]}}}
    with pytest.raises(ConfigurationError, match="growth is drawn of final-votes, which x lacks"):
        claims.check(Path("file.yaml"), study, given)
    given = {"x/final-votes": {"dataset": "aa2", "tasks": {"a": [{}]}}}
    with pytest.raises(ConfigurationError, match="'x/final-votes' is of 'aa2'"):
        claims.check(Path("file.yaml"), study, given)


def test_many_claims_are_harder_to_show():
    one = [Claim("c", "higher", ("a",), ("b",))]
    given = scores(14, 3, 100)
    assert claims.findings(one, given)[0].verdict == "holds"
    many = claims.findings(one * 18, given)
    assert {found.verdict.split(" (")[0] for found in many} == {"inconclusive"}
    assert many[0].p_holm == pytest.approx(18 * claims.findings(one, given)[0].p_holm)


def test_of_several_seeds_the_mean_of_each_task_is_compared_and_their_difference_is_doubt():
    """The means by an independent way: the grids of all seeds of a task as if they were grids of that task."""
    draws = np.random.default_rng(3)
    seeds = {name: draws.random(300) < share for name, share in [("a0", 0.3), ("a1", 0.3), ("b0", 0.4), ("b1", 0.35)]}
    given = {name: score(list(solved)) for name, solved in seeds.items()}
    both = {
        side: {"tasks": {f"{i:08}": [{"solved": seeds[f"{side}{k}"][i]} for k in range(2)] for i in range(300)}}
        for side in "ab"
    }
    [found] = claims.findings([Claim("c", "higher", ("a0", "a1"), ("b0", "b1"))], given)
    [expected] = claims.findings([Claim("c", "higher", ("a",), ("b",))], both)
    assert (found.won, found.lost) == (expected.won, expected.lost)
    a, b = (np.array([seeds[f"{side}{k}"] for k in range(2)], dtype=float) for side in "ab")
    assert found.difference == paired_difference(a, b, claims.RESAMPLES)
    assert found.difference.high - found.difference.low > expected.difference.high - expected.difference.low
    assert found.p_holm > expected.p_holm
    assert found.difference.mean == pytest.approx(
        (seeds["b0"] + 0.0 + seeds["b1"] - seeds["a0"] - seeds["a1"]).mean() / 2
    )


def test_answers_of_the_same_trainings_are_compared_each_with_itself():
    draws = np.random.default_rng(4)
    solved = {"first": draws.random(300) < 0.2, "second": draws.random(300) < 0.5}
    late = {name: values | (draws.random(300) < 0.05) for name, values in solved.items()}
    a, b = (np.array([side[name] for name in solved], dtype=float) for side in (solved, late))
    for other in ("", "another-"):
        given = {f"{name}/votes": score(list(values)) for name, values in solved.items()}
        given |= {f"{other}{name}/late": score(list(values)) for name, values in late.items()}
        names = ("first/votes", "second/votes"), (f"{other}first/late", f"{other}second/late")
        [found] = claims.findings([Claim("c", "higher", *names)], given)
        assert found.difference == paired_difference(a, b, claims.RESAMPLES, paired_seeds=not other)
        assert found.difference.shown != bool(other)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("x/votes", "y/votes"), ("y/late", "x/late")),
        (("x/votes", "x/late"), ("y/votes",)),
        (("x/votes",), ("x/late", "y/late")),
    ],
)
def test_trainings_that_cannot_be_paired_are_refused(a, b):
    kept = {name: {"dataset": "aa1", "tasks": {}} for name in (*a, *b)}
    study = claims.Study("title", ["x", "y"], [Claim("which is better", "higher", a, b)], "", "")
    with pytest.raises(ConfigurationError, match=r"'which is better' compares .*name each training once on a side"):
        claims.check(Path("file.yaml"), study, kept)


def test_trainings_of_the_same_seeds_are_compared_seed_by_seed():
    """A seed that goes well raises both: that is no doubt about their difference."""
    draws = np.random.default_rng(5)
    luck = [draws.random(400) < share for share in (0.2, 0.5)]
    gained = np.arange(400) % 16 == 0
    a, b = ({f"{side}{seed}/votes": solved for seed, solved in enumerate(values)}
            for side, values in (("a", luck), ("b", [solved | gained for solved in luck])))  # fmt: skip
    given = {name: score(list(solved)) for name, solved in (a | b).items()}
    found = {
        paired: claims.findings([Claim("c", "higher", tuple(a), tuple(b), paired)], given)[0]
        for paired in (False, True)
    }
    assert found[False].difference.mean == found[True].difference.mean
    assert found[True].difference.shown
    assert not found[False].difference.shown
    values = [np.array(list(side.values()), dtype=float) for side in (a, b)]
    assert found[True].difference == paired_difference(*values, claims.RESAMPLES, paired_seeds=True)


@pytest.mark.parametrize(("seeds", "refused"), [((0, 1), False), ((1, 0), True), ((0, 2), True)])
def test_seeds_that_differ_are_refused_where_they_are_to_be_the_same(seeds, refused):
    names = ("x/votes", "y/votes"), ("z/votes", "w/votes")
    kept = {
        name: {"dataset": "aa1", "tasks": {}, "seed": seed}
        for name, seed in zip(names[0] + names[1], (0, 1, *seeds), strict=True)
    }
    for paired in (False, True):
        study = claims.Study("title", list("xyzw"), [Claim("which", "higher", *names, paired)], "", "")
        if paired and refused:
            with pytest.raises(ConfigurationError, match=re.escape(f"a are [0, 1] and of b {list(seeds)}")):
                claims.check(Path("file.yaml"), study, kept)
        else:
            claims.check(Path("file.yaml"), study, kept)


@pytest.mark.parametrize(
    "text",
    [
        "claims: [{claim: c, expects: higher, a: x, b: y, same_seeds: maybe}]\nresults: []\ntitle: t",
        "claims: [{claim: c, expects: higher, a: 3, b: y}]\nresults: []\ntitle: t",
        "claims: [{claim: c, expects: higher, a: [], b: y}]\nresults: []\ntitle: t",
        "results: [a]",
        "claims: [{claim: c, expects: more, a: x, b: y}]\nresults: []\ntitle: t",
    ],
)
def test_a_wrong_file_is_refused(text, tmp_path):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"claims\.yaml: .*(expected|allowed)"):
        claims.read_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize(
    ("results", "against", "says"),
    [
        ([], "x/votes", "results is empty"),
        (["x", "z"], "x/votes", "results has 'z', but no such folder"),
        (["x"], "x/vote", "compares 'x/vote'; the answers of `results` are x/votes"),
        (["small"], "small/votes", "'small/votes' is of data set 'aa1-6x6'; allowed are aa1, aa2"),
        (["x", "y"], "x/votes", "'y/votes' answers other tasks or test grids than 'x/votes'"),
        (["x", "more"], "x/votes", "'more/votes' answers other tasks or test grids than 'x/votes'"),
    ],
)
def test_a_claim_of_what_is_not_there_or_of_other_tasks_is_refused(results, against, says):
    of = {"x": ("aa1", "ab"), "y": ("aa1", "ac"), "small": ("aa1-6x6", "a")}
    scores: dict[str, Any] = {
        f"{k}/votes": {"dataset": d, "tasks": {task: [{}] for task in tasks}} for k, (d, tasks) in of.items()
    }
    scores["more/votes"] = {"dataset": "aa1", "tasks": {"a": [{}, {}], "b": [{}]}}
    a = "small/votes" if against.startswith("small") else "x/votes"
    study = claims.Study("title", results, [Claim("c", "higher", (a,), (against,))], "", "")
    with pytest.raises(ConfigurationError, match=r"file\.yaml: .*" + re.escape(says)):
        claims.check(Path("file.yaml"), study, {n: v for n, v in scores.items() if n.split("/")[0] in results})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [file.name.removesuffix(claims.SUFFIX) for file in sorted(STUDIES.glob("*-claims.yaml"))]
)
def test_the_published_page_is_what_the_kept_predictions_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "presets.yaml", tmp_path)
    (tmp_path / "docs" / "studies").mkdir(parents=True)
    file = STUDIES / f"{name}{claims.SUFFIX}"
    claims.main([file], ROOT / "docs/baselines", tmp_path / "docs" / "studies")
    page = (tmp_path / "docs" / "studies" / f"{name}.md").read_text()
    assert page == (STUDIES / f"{name}.md").read_text()
    if figure := claims.read_claims(file).figure:
        assert (tmp_path / figure).stat().st_size > 10_000
    results = (ROOT / "RESULTS.md").read_text().splitlines()
    for line in page.splitlines():
        if "| final-votes |" in line and not line.startswith("| ours"):
            result, _, _, _, value = (cell.strip() for cell in line.strip("|").split("|")[:5])
            [row] = [row for row in results if row.startswith(f"| {result.removesuffix('-aa1')} |")][:1]
            assert value in row
