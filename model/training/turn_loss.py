"""The loss of a network that turns through its layers several times, with a prediction after each turn."""

from torch import Tensor


def mean_over_turns(losses: list[Tensor], last_share: float | None) -> Tensor:
    """Weighted mean of the turns' losses, scalars: `last_share` of it the last one's, the others evenly; None: all."""
    *earlier, last = losses
    if not earlier:
        return last
    share = 1 / len(losses) if last_share is None else last_share
    return share * last + (1 - share) / len(earlier) * sum(earlier[1:], earlier[0])
