"""How often each training pair is drawn."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def sampling_weights(
    origins: NDArray[np.str_], evaluation_weight: float, shares: Mapping[str, float]
) -> NDArray[np.float64]:
    """Relative weight of every pair, float64 (pairs,), from its origin (pairs,).

    A pair of an evaluation task weighs `evaluation_weight`, another one 1. The pairs of an origin in `shares` together
    have that share of all weight instead. Raises ValueError for a share of an origin without pairs.
    """
    weight = np.where(origins == "evaluation", evaluation_weight, 1.0)
    others = weight[~np.isin(origins, list(shares))].sum() / (1 - sum(shares.values()))
    for name, share in shares.items():
        own = origins == name
        if not own.any() or others == 0:
            raise ValueError(
                f"train.origin_shares gives {name!r} a share of {share:g}, but the pairs are of "
                f"{', '.join(sorted(set(origins.tolist())))} alone; change fetch.extra or the share"
            )
        weight[own] = share * others / own.sum()
    return weight


def last_weight(origins: NDArray[np.str_]) -> NDArray[np.float64]:
    """Relative weight of every pair, float64 (pairs,), in the updates of train.last_share_on_evaluation.

    1 for the pairs of evaluation tasks, which are their demonstrations, 0 for all others. Raises ValueError where there
    are none.
    """
    weight = np.where(origins == "evaluation", 1.0, 0.0)
    if not weight.any():
        raise ValueError(
            "train.last_share_on_evaluation needs demonstrations of evaluation tasks, but there are none; set it to 0"
        )
    return weight
