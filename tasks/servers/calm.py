"""`python -m tasks.servers.calm prefect server start`: Prefect's server, in which writers wait for each other.

A transaction that reads before it writes fails at once with `database is locked` where another one has written to the
SQLite file in between (3.8.8). The server then answers 503: Prefect's clients ask again, in vain on a loaded machine,
and its page does not. One that takes the lock at its beginning waits instead, up to the 60 s that Prefect sets.

A worker's heartbeat that still meets a locked database is logged as an error with a traceback. The worker connects
again and nothing is lost, since heartbeats come every 30 s, so this false alarm is left out.

Its pages may connect to this server only: even with analytics off they ask amplitude.com for a configuration (3.8.8).
"""

import functools
import logging
import runpy
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from sqlalchemy import Engine, event

LOGGER = "prefect.server.utilities.worker_channel"


def is_alarm(record: logging.LogRecord) -> bool:
    """Whether the record is anything but a heartbeat that met a locked database."""
    error = str(record.exc_info[1]) if record.exc_info else ""
    return not ("heartbeat persistence failed" in record.getMessage() and "database is locked" in error)


def lock_at_once(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    """Begin a transaction of SQLite with the lock for writing. Reads outside of transactions need none."""
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


def connecting_here_only(create: Callable[[bool], FastAPI], api: str) -> Callable[[bool], FastAPI]:
    """Let the pages of an app connect to their own server and to that of the address `api` only."""
    url = urlsplit(api)
    secure = "s" if url.scheme == "https" else ""
    policy = f"connect-src 'self' http{secure}://{url.netloc} ws{secure}://{url.netloc}"

    @functools.wraps(create)
    def created(ephemeral: bool) -> FastAPI:
        app = create(ephemeral)

        @app.middleware("http")
        async def add_policy(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
            response = await answer(request)
            response.headers["Content-Security-Policy"] = policy
            return response

        return app

    return created


def guard_pages() -> None:
    """Let the pages of the server that this process starts connect to it only."""
    from prefect.server.api import server  # Seconds, which only a server has to spend.
    from prefect.settings import PREFECT_UI_API_URL

    pages = connecting_here_only(server.create_ui_app, PREFECT_UI_API_URL.value())
    server.create_ui_app = pages  # type: ignore[assignment]


def main() -> None:
    """Run the module that the first argument names, with the others."""
    guard_pages()
    logging.getLogger(LOGGER).addFilter(is_alarm)
    event.listen(Engine, "before_cursor_execute", lock_at_once, retval=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
