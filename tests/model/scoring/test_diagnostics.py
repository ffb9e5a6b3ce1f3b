"""How denoising went and what was copied, on numbers worked out by hand."""

import numpy as np

from model.scoring.diagnostics import SIGNS, copying, signs, trajectory, warnings


def test_copying_by_hand():
    given = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    answer = np.array([[1, 2, 0], [9, 4, 5]], dtype=np.uint8)  # Against the padded input: cells (1, 0), (1, 2) edited.
    attempt = np.array([[1, 7, 0], [3, 4, 5]], dtype=np.uint8)
    found = copying({"a": answer}, {"a": [attempt]}, {"a": given})
    rates = {"copy_rate": round(4 / 6, 4), "edit_accuracy": 0.5, "keep_accuracy": 0.75}
    edits = {"cells_to_edit": 2, "cells_edited_right": 1, "cells_to_keep": 4, "cells_kept_right": 3}
    assert found == {"grids": 1, "cells": 6, "cells_copied": 4, **edits, **rates}
    nothing = dict.fromkeys(found, 0) | dict.fromkeys(rates)
    other_size = copying({"a": answer}, {"a": [given]}, {"a": given})
    assert other_size == nothing
    same = copying({"a": given}, {"a": [given]}, {"a": given})
    kept = {"grids": 1, "cells": 4, "cells_copied": 4, "cells_to_keep": 4, "cells_kept_right": 4}
    assert same == nothing | kept | {"copy_rate": 1.0, "keep_accuracy": 1.0}
    # Counts are sums over grids, rates are means over grids.
    both = copying({"a": answer, "b": given}, {"a": [attempt], "b": [given]}, {"a": given, "b": given})
    assert (both["cells_copied"], both["cells"], both["copy_rate"]) == (8, 10, round((4 / 6 + 1) / 2, 4))
    # A grid without an attempt of its shape is left out, wherever it stands.
    for left_out in ({"b": [given]}, {"a": [given], "b": [given]}):
        assert copying({"a": answer, "b": given}, left_out, {"a": given, "b": given}) == same
    assert signs(None, found) == {"identity_attractor": True, "input_gravity": False}
    assert warnings(signs(None, found)) == [SIGNS["identity_attractor"]]
    assert warnings(signs(None, other_size)) == []


def test_trajectories_by_hand():
    change = np.array([[0.9, 0.01, 0.0], [0.8, 0.3, 0.2]])
    confidence = np.array([[0.5, 0.96, 0.99], [0.4, 0.5, 0.6]])
    found = trajectory(change, confidence, change, np.array([2, 3]))
    assert found["change"] == [0.85, 0.155, 0.1]
    assert (found["early_locks"], found["early_lock_step"], found["last_change"]) == (1, 2.0, 2.5)
    assert (found["final_change"], found["final_confidence"]) == (0.1, 0.795)
    assert trajectory(change[1:], confidence[1:], change[1:], np.array([3]))["early_lock_step"] is None
    copied = {"edit_accuracy": None, "keep_accuracy": 1.0, "copy_rate": 0.9}
    assert found["steps"] == 3
    assert signs(found | {"grids": 1}, copied) == {"identity_attractor": False, "input_gravity": True}
    assert warnings(signs(found | {"grids": 1}, copied)) == [SIGNS["input_gravity"]]
