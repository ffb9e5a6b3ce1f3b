"""Variable-length attention on a GPU: flash-attn-4 where it is installed, else the flash 2 kernels inside torch.

At ARC's lengths flash-attn-4 takes two thirds of flash 2's time on an H200 (RESULTS.md); the extra `gpu` brings it.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from model.ops.segments import Segments


def flash(query: Tensor, key: Tensor, value: Tensor, who: Segments) -> Tensor:
    """See `attention.attention`; bfloat16 or float16 on a GPU."""
    if who.longest_query == 1:
        from model.ops.triton.single_query import SingleQuery

        return SingleQuery.apply(query, key, value, who)  # type: ignore[no-any-return, no-untyped-call]
    newest = _newest(query.device)
    longest = who.longest_query, who.longest_key
    if newest is None:
        result = varlen_attn(query, key, value, who.query_starts, who.key_starts, *longest)
        assert isinstance(result, Tensor)
        return result
    query_starts, key_starts, key_lengths = who.gaps or (who.query_starts, who.key_starts, None)
    return newest(
        query, key, value, cu_seqlens_q=query_starts, cu_seqlens_k=key_starts, seqused_k=key_lengths,
        max_seqlen_q=longest[0], max_seqlen_k=longest[1],
    )  # fmt: skip


def kernel(device: torch.device) -> str:
    """Name of the kernel that `flash` takes on this GPU."""
    return "flash 2 of torch" if _newest(device) is None else "flash-attn-4"


@functools.cache
def _newest(device: torch.device) -> Callable[..., Tensor] | None:
    if torch.cuda.get_device_capability(device)[0] not in (9, 10) or importlib.util.find_spec("flash_attn") is None:
        return None
    if importlib.util.find_spec("flash_attn.cute") is None:  # An older generation of the package.
        return None
    # Its kernels are compiled at their first use, in about 15 s, and kept.
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    from flash_attn.cute import flash_attn_varlen_func

    def attend(*arguments: Tensor, **options: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The compiler's, about its own arguments.
            result = flash_attn_varlen_func(*arguments, **options)
        output = result[0] if isinstance(result, tuple) else result
        assert isinstance(output, Tensor)
        return output

    return attend
