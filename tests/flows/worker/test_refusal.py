"""What the worker refuses to execute, whatever the server holds."""

import uuid
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse

from flows.queue import admission, deployment, other_workers
from flows.worker import refusal
from tests.support import made_up_server

IDENTITY = uuid.uuid4()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FROZEN = {COMMIT}
STEPS = [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/x"}}]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from([COMMIT, "env", admission.COMMIT]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["env", "command", admission.COMMIT]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def ours(**changes: Any) -> DeploymentResponse:
    fields = {
        "id": IDENTITY,
        "name": deployment.DEPLOYMENT,
        "flow_id": uuid.uuid4(),
        "entrypoint": deployment.ENTRYPOINT,
    }
    return DeploymentResponse(**fields | {"pull_steps": [], "job_variables": {}} | changes)


def run(variables: Any = None, **changes: Any) -> FlowRun:
    made = FlowRun(flow_id=uuid.uuid4(), deployment_id=changes.get("deployment_id", IDENTITY))
    return made.model_copy(update={"job_variables": variables})


def why(its_run: FlowRun, place: DeploymentResponse | None, template: Any = None) -> str | None:
    return refusal.reason(its_run, place, deployment.template() if template is None else template, FROZEN)


@pytest.mark.parametrize("variables", [None, {}, {"env": {}}, admission.variables(COMMIT)])
def test_our_runs_are_executed(variables: Any) -> None:
    assert why(run(variables), ours()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"pull_steps": STEPS},
        {"entrypoint": "evil.py:flow"},
        {"entrypoint": None},
        {"job_variables": {"command": "touch /tmp/x"}},
        {"storage_document_id": uuid.uuid4()},
        {"infrastructure_document_id": uuid.uuid4()},
        {"path": "/tmp"},
        {"name": "other"},
        {"id": uuid.uuid4()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_deployment_could_bring_is_refused(changes: dict[str, Any]) -> None:
    assert why(run(), ours(**changes))


@pytest.mark.parametrize(
    "variables",
    [
        {"command": "touch /tmp/x"},
        {"image": "evil"},
        {"working_dir": "/"},
        {"env": {"PYTHONPATH": "/tmp"}},
        {"env": {admission.COMMIT: COMMIT, "LD_PRELOAD": "/tmp/x.so"}},
        {"env": {admission.COMMIT: "--upload-pack=touch /tmp/x"}},
        {"env": {admission.COMMIT: "f" * 40}},
        {"env": {admission.COMMIT: COMMIT + "\n"}},
        {"env": [COMMIT]},
    ],
    ids=str,
)
def test_what_a_run_could_bring_is_refused(variables: dict[str, Any]) -> None:
    assert why(run(variables), ours())


def test_a_run_without_a_deployment_and_a_changed_pool_are_refused() -> None:
    assert "no deployment" in str(why(run(), None))
    template = deployment.template()
    template["job_configuration"] = {**template["job_configuration"], "command": "touch /tmp/x"}
    assert "template" in str(why(run(), ours(), template))


@given(ANYTHING)
def test_no_variables_pass_but_ours(variables: Any) -> None:
    allowed = [{"env": {}}, admission.variables(COMMIT), {"env": {admission.COMMIT: None}}]
    assert (admission.foreign_variables(variables, FROZEN) is None) == (not variables or variables in allowed)


@given(st.dictionaries(st.text(max_size=8) | st.just("env"), ANYTHING, max_size=3))
def test_a_commit_is_text_or_none(variables: Any) -> None:
    assert isinstance(admission.commit_of(run(variables)), str | None)


def test_the_first_runs_that_are_ours_are_chosen_and_what_stands_before_them_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("foreign", "away", "gone", "good", "alone", "better", "spare", "foreign later")
    runs = {name: made_up_server.run(StateType.SCHEDULED, name, deployment=name) for name in names}
    runs["alone"].deployment_id = None
    runs["better"].deployment_id = "good"
    server: Any = made_up_server.Server(*runs.values())
    monkeypatch.setattr(deployment, "kept_client", lambda: server)
    asked, seen = [], []

    def read(name: str) -> str:
        asked.append(name)
        if name == "gone":
            raise httpx.ConnectError("no answer")
        return name

    def foreign(row: Any, its: Any, *given: Any) -> str:
        seen.append(given)
        return f"not ours, {its}" if its in (None, "foreign", "foreign later") else ""

    server.read_deployment = read
    monkeypatch.setattr(other_workers, "frozen", lambda rows: ({"c"}, {runs["away"].id}))
    monkeypatch.setattr(refusal, "reason", foreign)
    assert refusal.choose([], {}, 2) == set()
    assert refusal.choose(list(runs.values()), {"a": 1}, 2) == {runs["good"].id, runs["better"].id}
    assert asked == ["foreign", "gone", "good"], "each deployment once, and none of what need not be known"
    assert set(map(repr, seen)) == {repr(({"a": 1}, {"c"}))}
    messages = {name: row.state.message for name, row in runs.items() if row.state.type == StateType.FAILED}
    assert messages == {"foreign": "refused: not ours, foreign", "alone": "refused: not ours, None"}
    assert capsys.readouterr().out.splitlines() == [
        "foreign: refused: not ours, foreign",
        "gone: refused: not yet, the server says no answer",
        "alone: refused: not ours, None",
    ]
    assert refusal.choose(list(runs.values()), {}, 9) == {runs[name].id for name in ("good", "better", "spare")}
