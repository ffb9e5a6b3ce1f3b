"""Copies and trajectories where a reader meets them: the page, the long score table and MLflow, from the same score."""

import json

import numpy as np
import pytest

from model.storage import sealed
from tasks.common import paths
from tasks.files import predictions, tables
from tasks.reporting import behaviour, score_table
from tasks.tracking import records
from tests.support.report_fixture import ANSWERS, STEPS, built, house, part, read  # noqa: F401


def _counted(checkpoint, evaluation):
    """Counted cell by cell from the submission, and from the stored predictions, without the diagnostics."""
    submission = json.loads(paths.submission(checkpoint, evaluation).read_text())
    counts = dict.fromkeys(("grids", "cells", "copied", "keep", "kept", "edit", "edited"), 0)
    for (name, test), (given, _) in tables.read_pairs("evaluation").items():
        attempt, answer = submission[name][test]["attempt_1"], ANSWERS[name][test].tolist()
        if (len(attempt), len(attempt[0])) != (len(answer), len(answer[0])) or name == "dddd0000":  # Not answered.
            continue
        counts["grids"] += 1
        for i, row in enumerate(answer):
            for j, wanted in enumerate(row):
                before = int(given[i, j]) if i < given.shape[0] and j < given.shape[1] else 0
                kind, right = ("keep", "kept") if before == wanted else ("edit", "edited")
                counts["cells"] += 1
                counts["copied"] += attempt[i][j] == before
                counts[kind] += 1
                counts[right] += attempt[i][j] == wanted
    frame, _ = predictions.read(paths.predictions(checkpoint, evaluation))
    first = frame[(frame["view"] == 0) & (frame["attempt"] == 0)]
    locked = [
        any(change <= 0.01 and sure >= 0.95 for change, sure in zip(row.change, row.confidences, strict=True))
        for row in first.itertuples()
    ]
    return counts, float(np.mean(first["last_changed_step"])), sum(locked), len(first)


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", ["attempts", "votes"])
def test_page_table_and_mlflow_show_what_is_counted_cell_by_cell(house, capsys, evaluation):
    now = house()
    counts, last, locked, denoised = _counted("best", evaluation)
    assert min(counts.values()) > 0
    share = {
        a: f"{100 * counts[a] / counts[b]:.1f}" for a, b in (("copied", "cells"), ("kept", "keep"), ("edited", "edit"))
    }
    shown = [str(counts["grids"]), str(counts["cells"]), share["copied"], share["kept"], str(counts["edit"])]
    shown += [share["edited"], f"{last:.1f}", f"{100 * locked / denoised:.1f}"]
    (row,) = [r for r in part(read(), "behaviour").find("tr") if r.text.startswith(f"best-{evaluation} ")]
    assert [cell.text for cell in row.find("td")][1:9] == shown

    capsys.readouterr()
    score_table.main()
    assert "copies and trajectories" not in capsys.readouterr().out
    score_table.main(long=True)
    _, _, long = capsys.readouterr().out.partition("copies and trajectories")
    (line,) = [line for line in long.splitlines() if line.startswith(f"best-{evaluation} ")]
    assert line.split()[1:9] == shown

    score = json.loads(paths.score("best", evaluation).read_text())
    finished = records.Finished(
        now.model_dump(mode="json"), [], {}, {}, {("best", evaluation): score}, None, {}, {}, {("best", evaluation): {}}
    )
    points = {p.metric: p.value for p in records.evaluation(finished, ("best", evaluation)).points}
    names = {
        "cells": "cells", "copied": "cells_copied", "keep": "cells_to_keep", "kept": "cells_kept_right",
        "edit": "cells_to_edit", "edited": "cells_edited_right", "grids": "grids",
    }  # fmt: skip
    assert {name: points[f"copying/{key}"] for name, key in names.items()} == counts
    assert points["trajectory/last_change"] == pytest.approx(last, abs=0.005)
    assert points["trajectory/early_locks"] == locked
    assert points["signs/identity_attractor"] == float("identity attractor" in row.text)
    assert {"signs/input_gravity", "copying/copy_rate"} <= set(points)
    assert not any(name.startswith("trajectory/change") for name in points), "curves stay in the file"


@pytest.mark.slow
def test_the_identity_attractor_reaches_all_three(house, capsys):
    now = house()
    path = paths.score("best", "attempts")
    score = json.loads(path.read_text())
    assert score["signs"]["identity_attractor"] == bool(
        [text for text in score["warnings"] if text.startswith("identity attractor")]
    )
    score["warnings"] = ["identity attractor: so"]
    sealed.write(path, score)
    score_table.main(long=True)
    assert "best-attempts: identity attractor: so" in capsys.readouterr().out
    assert score_table.rows(now)[0].warnings == ("identity attractor: so",)


def test_what_was_not_measured_is_a_dash():
    nothing = dict.fromkeys(("grids", "cells", "cells_copied", "cells_to_keep", "cells_kept_right"), 0)
    nothing |= dict.fromkeys(("cells_to_edit", "cells_edited_right"), 0)
    found = behaviour.cells(behaviour.Behaviour(nothing, None))
    assert found == ["0", "0", "–", "–", "0", "–", "–", "–", "–"]
    assert len(found) == len(behaviour.HEADS)
