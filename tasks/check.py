"""Stage `check`: params.yaml is validated before any other stage reads it.

DVC itself reads the names in params.yaml, to know which presets the stage `params` needs; its message for an unknown
name would come before ours. This stage writes params.yaml without comments, so that editing a comment makes no other
stage stale.
"""

import yaml

from tasks.common import params, paths
from tasks.common.stage import stage


@stage("check")
def main() -> None:
    """Write data/checked.yaml."""
    params.load()
    paths.CHECKED.parent.mkdir(exist_ok=True)
    paths.CHECKED.write_text(yaml.safe_dump(params.read(paths.PARAMS)))


if __name__ == "__main__":
    main()
