"""A word when a run has ended, through one of Prefect's own notification blocks.

ARC_NOTIFY names the block as TYPE/NAME, such as slack-webhook/lab; `prefect block register` and the UI make them.
"""

import os
import sys


def send(subject: str, body: str) -> None:
    """Notify, if ARC_NOTIFY is set. What fails is told, not raised: the run has ended well without it."""
    name = os.environ.get("ARC_NOTIFY")
    if not name:
        return
    from prefect.blocks.core import Block

    try:
        block = Block.load(name)
        block.notify(body, subject=subject)  # type: ignore[union-attr]
    except Exception as error:  # Any network's error, and blocks without `notify`.
        print(f"{name} (ARC_NOTIFY) was not notified of {subject!r}: {error!r}", file=sys.stderr, flush=True)
