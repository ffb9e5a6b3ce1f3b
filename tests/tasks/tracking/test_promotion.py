"""When the alias of a registered model moves, with a registry that is made up; and how a model becomes a version."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.tracking import models, promotion

KEY = "arc.key"


class Registry:
    """Versions of one model, and the scores of their evaluations."""

    def __init__(self) -> None:
        self.versions: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        self.aliases: dict[str, str] = {}

    def add(self, key: str, solved: int, evaluation: str = "votes", prefix: str = "t", of: int = 60) -> str:
        number = str(len(self.versions) + 1)
        tags = {"arc.checkpoint": "best", promotion.SERVED: evaluation, KEY: key}
        self.versions[number] = SimpleNamespace(version=number, tags=tags)
        self.scores[key] = {"tasks": {f"{prefix}{i:02}": [{"solved": i < solved}] for i in range(of)}}
        return number

    def search_model_versions(self, wanted: str) -> list[Any]:
        assert wanted.startswith("name = 'm' and ")
        other = SimpleNamespace(version="0", tags={"arc.checkpoint": "final"})
        return [other, *(v for v in self.versions.values() if f"'{v.tags.get(KEY)}'" in wanted)]

    def get_registered_model(self, _: str) -> Any:
        return SimpleNamespace(aliases=self.aliases)

    def get_model_version(self, _: str, number: str) -> Any:
        return self.versions[number]

    def set_registered_model_alias(self, _: str, alias: str, number: str) -> None:
        self.aliases[alias] = number

    def search_experiments(self) -> list[Any]:
        return [SimpleNamespace(experiment_id="1")]

    def search_runs(self, experiments: list[str], wanted: str, max_results: int) -> list[Any]:
        assert "tags.`arc.run` = 'evaluation'" in wanted
        assert "tags.`arc.evaluation` = '" in wanted
        [key] = [key for key in self.scores if f"tags.`{KEY}` = '{key}'" in wanted]
        return [SimpleNamespace(info=SimpleNamespace(run_id=key))] if self.scores[key] else []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    load = lambda address: json.dumps(made.scores[address.split("/")[1]])  # noqa: E731
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(artifacts=SimpleNamespace(load_text=load)))
    return made


def test_the_alias_moves_only_to_a_version_that_is_shown_to_be_better(registry: Registry) -> None:
    def consider(key: str) -> str:
        return promotion.consider(registry, "m", key, KEY)

    registry.add("a", 10)
    assert consider("a") == "m@best is version 1, the first"
    registry.add("b", 11)
    assert "m@best stays version 1: version 2 is not shown to be better, difference +1.7 [" in consider("b")
    registry.add("c", 0)
    assert "is not shown to be better, difference -16.7 [" in consider("c"), "shown to be worse"
    registry.add("d", 60, evaluation="attempts")
    assert consider("d") == "m@best stays version 1: version 4 answers by another evaluation"
    registry.add("e", 60, prefix="u")
    assert consider("e").endswith("there are no scores of both over the same tasks")
    registry.add("f", 40)
    assert consider("f").startswith("m@best moves from version 1 to 6: difference +50.0 [")
    assert registry.aliases == {"best": "6"}
    del registry.versions["6"].tags[KEY]
    registry.add("g", 50)
    assert "answers by another evaluation" in consider("g"), "somebody made that version by hand"


def test_without_a_score_nothing_moves(registry: Registry) -> None:
    registry.add("a", 10)
    promotion.consider(registry, "m", "a", KEY)
    registry.add("b", 60)
    registry.scores["a"] = None
    assert "no scores of both" in promotion.consider(registry, "m", "b", KEY)


def test_a_task_of_two_grids_counts_by_its_share(registry: Registry) -> None:
    registry.add("a", 0)
    registry.scores["a"] = {"tasks": {"x": [{"solved": True}, {"solved": False}]}}
    assert promotion.solved(registry, registry.versions["1"], KEY) == {"x": 0.5}


def test_a_model_becomes_a_version_of_a_registered_model_that_may_exist() -> None:
    from mlflow.exceptions import RESOURCE_ALREADY_EXISTS, MlflowException

    made: list[Any] = []
    exists: Any = MlflowException("exists", error_code=RESOURCE_ALREADY_EXISTS)
    errors = [exists, None, MlflowException("away")]

    class Client:
        def create_registered_model(self, name: str) -> None:
            made.append(name)
            if error := errors.pop(0):
                raise error

        def create_model_version(self, name: str, source: str, run: str, tags: Any, model_id: str) -> Any:
            made.append((name, source, run, tags, model_id))
            return SimpleNamespace(version=3)

    model: Any = SimpleNamespace(registered="m", tags={"a": "b"})
    for _ in range(2):
        assert models.register(Client(), model, "m-1", "r", {"k": "v"}) == "3"
    assert made[:2] == ["m", ("m", "models:/m-1", "r", {"a": "b", "k": "v", "arc.model": "m-1"}, "m-1")]
    with pytest.raises(MlflowException, match="away"):
        models.register(Client(), model, "m-1", "r", {})
    signature = models.signature()
    assert [column.name for column in signature.inputs] == ["tasks"]
    names = [f"{what}_{i}" for i in (1, 2) for what in ("attempt", "size", "votes")]
    assert [column.name for column in signature.outputs] == ["task", "test", *names, "proposals"]
