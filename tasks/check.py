"""Stage `check`: params.yaml is right before any other stage looks at it.

DVC reads the names in params.yaml itself, to know which presets the stage `params` needs; for a name that is in no
preset its own message would come first. What this stage writes is params.yaml without comments, so that editing a
comment makes nothing else stale.
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
