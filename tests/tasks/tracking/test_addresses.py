"""Databases in folders of any name: SQLAlchemy must open the file that is meant."""

import sqlite3

import pytest
import sqlalchemy

from tasks.tracking.addresses import addressable, sqlite_address


@pytest.mark.parametrize("name", ["plain", "a b %", "ü?", "50%20", "#&=;", "what? really?"])
def test_the_address_opens_the_file_that_is_meant(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / name
    folder.mkdir()
    with sqlite3.connect(folder / "runs.db") as connection:
        connection.execute("create table scores (grids int)")
        connection.execute("insert into scores values (142)")
    engine = sqlalchemy.create_engine(sqlite_address(folder / "runs.db"))
    with engine.connect() as opened:
        assert opened.execute(sqlalchemy.text("select grids from scores")).scalar() == 142
    engine.dispose()
    assert {path.name for path in folder.iterdir()} == {"runs.db"}


def test_a_link_follows_its_folder_and_a_plain_folder_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert addressable(tmp_path) == tmp_path
    assert not (tmp_path / "cache").exists()
    link = addressable(tmp_path / "why?")
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    assert addressable(tmp_path / "why?").readlink() == tmp_path / "why?"


def test_no_place_without_a_question_mark_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache?"))
    with pytest.raises(ValueError, match=r"hold a question mark or %XX; move the checkout"):
        addressable(tmp_path / "why?")
