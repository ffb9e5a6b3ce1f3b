"""A lease on the computation of a stage: of all machines, one computes it, and the others wait for its outputs.

It is a variable on Prefect's server, named by the stage's key: the database lets one worker create it, the holder
renews it, and whoever finds one that was not renewed deletes that very one by its id. Prefect's own concurrency limits
are not used: their leases are in the server's memory by default, so that a restart of the server would leave the slot
taken for good.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from pydantic import ValidationError

from flows.cluster import owners
from flows.runs.places import one_line
from tasks.common.documents import DocumentError, parse_json
from tasks.servers import process_identity
from tasks.servers.process_identity import Identity

PREFIX = "arc-stage-"
EXPIRES_SECONDS = 60.0
"""After the last renewal, by the server's clock."""
RENEW_SECONDS = 15.0
POLL_SECONDS = 3.0
SERVER_ERRORS = (httpx.HTTPError, PrefectException, RuntimeError)
"""Errors of a server that does not answer, or not as it should."""


@contextlib.contextmanager
def held(key: str, stage: str, say: Callable[[str], None], done: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lease on a stage; yields False without it if `done()` says that another machine has computed it.

    A server that does not answer keeps nobody from computing: at worst a stage is computed twice, with equal outputs.
    """
    with contextlib.ExitStack() as stack:
        value = _self()
        try:
            connection = stack.enter_context(get_client(sync_client=True))
            number = take(connection, key, stage, value, say, done)
        except SERVER_ERRORS as error:
            say(f"{stage} is computed without a lease, since the server does not answer: {one_line(error)}")
            yield True
            return
        if number is None:
            yield False
            return
        ended = threading.Event()
        renewal = threading.Thread(target=_renew, args=(connection, number, value, ended), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            ended.set()
            renewal.join()
            with contextlib.suppress(*SERVER_ERRORS):  # Else it expires.
                _delete(connection, number)


def take(
    connection: SyncPrefectClient,
    key: str,
    stage: str,
    value: str,
    say: Callable[[str], None],
    done: Callable[[], bool],
) -> str | None:
    """Wait for the lease and take it with `value`. Returns its id; None if `done()` came first."""
    reported_machine = ""
    while not done():
        with contextlib.suppress(ObjectAlreadyExists):
            return str(connection.create_variable(VariableCreate(name=PREFIX + key, value=value)).id)
        lease = _read(connection, key)
        if lease is None:
            continue
        number, machine, process, age = lease
        if age > EXPIRES_SECONDS or (machine == owners.machine() and not _alive(process)):
            _delete(connection, number)
            continue
        if reported_machine != machine:
            reported_machine = machine
            say(f"{stage} waits: {machine} computes the same")
        time.sleep(POLL_SECONDS)
    return None


def forget_expired(connection: SyncPrefectClient) -> int:
    """Delete the leases of dead machines, which nobody may ever ask for again. Returns their number."""
    query = {"variables": {"name": {"like_": f"{PREFIX}%"}}, "limit": 200}
    answer = connection.request("POST", "/variables/filter", json=query)
    expired = [row for row in answer.json() if row["name"].startswith(PREFIX) and _age(answer, row) > EXPIRES_SECONDS]
    for row in expired:
        _delete(connection, str(row["id"]))
    return len(expired)


def _age(answer: httpx.Response, row: dict[str, Any]) -> float:
    """Seconds since the server updated a row, by its own clock."""
    now = parsedate_to_datetime(answer.headers["Date"])
    return (now - datetime.fromisoformat(row["updated"])).total_seconds()


def _self() -> str:
    process = process_identity.identity(os.getpid())
    return json.dumps({"machine": owners.machine(), "process": process.model_dump() if process else None})


def _read(connection: SyncPrefectClient, key: str) -> tuple[str, str, Any, float] | None:
    """Id of the lease, machine and process of its holder, seconds since it was renewed; None if there is none."""
    try:
        answer = connection.request("GET", "/variables/name/{name}", path_params={"name": PREFIX + key})
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 404:
            return None
        raise
    row = answer.json()
    age = _age(answer, row)
    try:
        value = parse_json(str(row["value"]).encode(), PREFIX + key)
        return str(row["id"]), str(value["machine"]), value["process"], age
    except (DocumentError, KeyError, TypeError):  # Anybody may edit variables on Prefect's page.
        return str(row["id"]), "an unknown machine", None, age


def _alive(process: Any) -> bool:
    try:
        return process_identity.find(Identity.model_validate(process)) is not None
    except ValidationError:
        return True  # Then the lease expires.


def _renew(connection: SyncPrefectClient, number: str, value: str, ended: threading.Event) -> None:
    """Renew until the end. While the server is away this is tried again; a lease that is gone stays with its taker."""
    while not ended.wait(RENEW_SECONDS):
        with contextlib.suppress(*SERVER_ERRORS):
            connection.request("PATCH", "/variables/{id}", path_params={"id": number}, json={"value": value})


def _delete(connection: SyncPrefectClient, number: str) -> None:
    """Delete a lease by its id: another worker may have a new one of the same name already."""
    try:
        connection.request("DELETE", "/variables/{id}", path_params={"id": number})
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 404:
            raise
