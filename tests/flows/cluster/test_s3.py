"""The DVC remote in an S3 bucket, on a stand-in that refuses whoever has no secret."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cluster import checks, remote_store
from tests.support import s3, shared_remote

pytestmark = [pytest.mark.slow, pytest.mark.night]
URL = f"s3://{s3.BUCKET}/results"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, str]]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3.server(tmp_path) as (address, user):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield address, user


def test_stages_and_saves_go_over_a_bucket(
    bucket: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, user = bucket
    shared_remote.exchange(tmp_path, URL, {"AWS_ENDPOINT_URL": address, **user}, monkeypatch)


def test_a_machine_without_the_secret_is_refused_and_told_how_to_give_it(
    bucket: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARC_HOME", str(shared_remote.clone(tmp_path, URL)))
    monkeypatch.chdir(tmp_path)
    [(_, found, fix)] = checks.data_remote(URL)
    print(found)
    assert "AWS_ACCESS_KEY_ID" in fix
    for name, text in {**bucket[1], "AWS_SECRET_ACCESS_KEY": "wrong"}.items():
        monkeypatch.setenv(name, text)
    [(_, found, fix)] = checks.data_remote(URL)
    print(found)
    assert "AWS_ACCESS_KEY_ID" in fix
    for name, text in bucket[1].items():
        monkeypatch.setenv(name, text)
    [(_, found, fix)] = checks.data_remote(URL)
    assert fix == ""
    assert "can be written" in found


def test_a_bucket_that_does_not_answer_is_away(
    bucket: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in bucket[1].items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(shared_remote.clone(tmp_path, URL))
    assert remote_store.RemoteStore().away() == ""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in remote_store.RemoteStore().away()
