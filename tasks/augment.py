"""Stage `augment`: the table of views of every task, for training and for voting, a function of the seed."""

import numpy as np

from model.views import make_views
from tasks import paths
from tasks.params import resolved
from tasks.stage import stage
from tasks.tables import read_tasks, write_views


@stage("augment")
def main() -> None:
    """Write data/augmented."""
    experiment = resolved()
    config, tasks = experiment.augment, read_tasks()
    by_origin = {"training": config.training_views, "evaluation": config.evaluation_views}
    training = np.array([by_origin[task["origin"]] for task in tasks])
    for path, counts, offset in (
        (paths.TRAINING_VIEWS, training, 0),
        (paths.VOTING_VIEWS, np.full(len(tasks), config.voting_views), 1),
    ):
        views = make_views(config, counts, 2 * experiment.seed + offset)
        write_views(path, np.repeat(np.arange(len(tasks)), counts), views)


if __name__ == "__main__":
    main()
