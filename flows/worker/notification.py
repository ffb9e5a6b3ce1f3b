"""Notifications about ended runs, through one of Prefect's notification blocks.

ARC_NOTIFY names the block as TYPE/NAME, such as slack-webhook/lab; `prefect block register` and the UI make them.
"""

import os
import sys


def send(subject: str, body: str) -> None:
    """Send a notification if ARC_NOTIFY is set. Failures are printed, not raised."""
    name = os.environ.get("ARC_NOTIFY")
    if not name:
        return
    from prefect.blocks.core import Block

    try:
        block = Block.load(name)
        block.notify(body, subject=subject)  # type: ignore[union-attr]
    except Exception as error:  # Any network error, and blocks without `notify`.
        print(f"{name} (ARC_NOTIFY) could not be notified of {subject!r}: {error!r}", file=sys.stderr, flush=True)
