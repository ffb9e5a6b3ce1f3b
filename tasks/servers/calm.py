"""`python -m tasks.servers.calm prefect server start`: Prefect's server without a false alarm in its log.

A worker's heartbeat that meets another writer of the SQLite file is logged as an error with a traceback (3.8.8). The
worker connects again and nothing is lost: heartbeats come every 30 s.
"""

import logging
import runpy
import sys

LOGGER = "prefect.server.utilities.worker_channel"


def is_alarm(record: logging.LogRecord) -> bool:
    """Whether the record is anything but a heartbeat that met a locked database."""
    error = str(record.exc_info[1]) if record.exc_info else ""
    return not ("heartbeat persistence failed" in record.getMessage() and "database is locked" in error)


def main() -> None:
    """Run the module that the first argument names, with the others."""
    logging.getLogger(LOGGER).addFilter(is_alarm)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
