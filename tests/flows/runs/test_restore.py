import subprocess
from pathlib import Path

import pytest

from flows.runs import places, restore
from flows.runs.places import FlowError, git


def dvc(*arguments: str, cwd: Path) -> None:
    subprocess.run(["dvc", *arguments, "-q"], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout on main whose branch exp/v3/first holds a result; the workspace has the files of another one."""
    folder = tmp_path / "lab"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("ARC_HOME", "ARC_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    git("init", "-q", "-b", "main", cwd=folder)
    for key in ("name", "email"):
        git("config", f"user.{key}", "tests", cwd=folder)
    dvc("init", cwd=folder)
    (folder / ".gitignore").write_text("/data\n.scratch\n.prefect\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: mkdir -p data && cp text data/made\n    deps: [text]\n    outs: [data/made]\n"
    )
    for branch, text in (("exp/v3/first", "first"), ("main", "second")):
        (folder / "text").write_text(text)
        dvc("repro", cwd=folder)
        git("add", "-A", cwd=folder)
        if branch != "main":
            git("switch", "-q", "-c", branch, cwd=folder)
        git("commit", "-qm", text, cwd=folder)
        if branch != "main":
            git("switch", "-q", "-c", "main", cwd=folder)
    return folder


@pytest.mark.slow
def test_a_result_comes_back_with_its_files_and_the_checkout_stays(lab: Path) -> None:
    before = git("rev-parse", "HEAD", cwd=lab), git("status", "--porcelain", cwd=lab)
    for i, name in enumerate(("exp/v3/first", "v3/first", git("rev-parse", "exp/v3/first", cwd=lab))):
        folder = restore.restore(name, lab.parent / str(i) if i else None)
        assert (folder / "data" / "made").read_text() == "first"
        assert git("status", "--porcelain", cwd=folder) == ""
    assert folder == lab.parent / "2"
    assert (places.scratch() / "restored" / "v3-first" / "data" / "made").exists()
    assert (lab / "data" / "made").read_text() == "second"
    assert (git("rev-parse", "HEAD", cwd=lab), git("status", "--porcelain", cwd=lab)) == before
    with pytest.raises(FlowError, match="exists; `git worktree remove"):
        restore.restore("v3/first")


@pytest.mark.slow
def test_an_experiment_of_dvc_is_found_by_its_name(lab: Path) -> None:
    commit = git("rev-parse", "exp/v3/first", cwd=lab)
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/merry-name", commit, cwd=lab)
    assert restore.commit_of("merry-name") == commit


@pytest.mark.slow
def test_a_result_whose_files_are_gone_leaves_nothing(lab: Path) -> None:
    with pytest.raises(FlowError, match=r"no result 'v3/frist'; did you mean 'exp/v3/first'\?"):
        restore.restore("v3/frist")
    git("rm", "-q", "--cached", "dvc.lock", cwd=lab)
    git("commit", "-qm", "no lock", cwd=lab)
    with pytest.raises(FlowError, match=r"has no dvc\.lock"):
        restore.restore("main")
    for path in (lab / ".dvc" / "cache" / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(FlowError, match=r"not all of its files are in DVC's cache.*dvc pull"):
        restore.restore("v3/first")
    assert git("worktree", "list", cwd=lab).count("\n") == 0
    assert not (places.scratch() / "restored" / "v3-first").exists()
