"""Stage `augment`: the augmented views of every task, for training and for voting, drawn from the seed."""

import numpy as np

from model.puzzles.views import make_views, output_only_colours, voting_seed
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import stage
from tasks.files.tables import read_demonstrations, read_tasks, write_views


@stage("augment")
def main() -> None:
    """Write data/augmented."""
    experiment = resolved()
    config, tasks = experiment.augment, read_tasks()
    by_origin = {"evaluation": config.evaluation_views}
    training = np.array([by_origin.get(task["origin"], config.training_views) for task in tasks])
    shown = read_demonstrations() if config.output_only_colours == "kept" else {}
    output_only = [output_only_colours(shown.get(task["name"], ())) for task in tasks]
    conditioning = experiment.train.network.conditioning
    for path, counts, seed in (
        (paths.TRAINING_VIEWS, training, 2 * experiment.seed),
        (paths.VOTING_VIEWS, np.full(len(tasks), config.voting_views), voting_seed(conditioning, experiment.seed)),
    ):
        views = make_views(config, counts, seed, output_only)
        write_views(path, np.repeat(np.arange(len(tasks)), views.count), views)


if __name__ == "__main__":
    main()
