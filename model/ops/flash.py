"""Variable-length attention on a GPU: flash-attn-4 where it is installed, else the flash 2 kernels inside torch.

At ARC's sequence lengths flash-attn-4 takes two thirds of flash 2's time on an H200 (docs/log.md). It is installed with
the extra `gpu`.
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


def flash(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """As `attention.attention`, for bfloat16 or float16 on a GPU."""
    if segments.longest_query == 1:
        from model.ops.triton.single_query import SingleQuery

        return SingleQuery.apply(query, key, value, segments)  # type: ignore[no-any-return, no-untyped-call]
    flash_4 = _flash_attn_4(query.device)
    longest = segments.longest_query, segments.longest_key
    if flash_4 is None:
        result = varlen_attn(query, key, value, segments.query_starts, segments.key_starts, *longest)
        assert isinstance(result, Tensor)
        return result
    query_starts, key_starts, key_lengths = segments.gaps or (segments.query_starts, segments.key_starts, None)
    return flash_4(
        query, key, value, cu_seqlens_q=query_starts, cu_seqlens_k=key_starts, seqused_k=key_lengths,
        max_seqlen_q=longest[0], max_seqlen_k=longest[1],
    )  # fmt: skip


def kernel_name(device: torch.device) -> str:
    """The attention kernel that `flash` uses on this GPU, as a name for people."""
    return "flash 2 of torch" if _flash_attn_4(device) is None else "flash-attn-4"


@functools.cache
def _flash_attn_4(device: torch.device) -> Callable[..., Tensor] | None:
    if torch.cuda.get_device_capability(device)[0] not in (9, 10) or importlib.util.find_spec("flash_attn") is None:
        return None
    if importlib.util.find_spec("flash_attn.cute") is None:  # An older major version.
        return None
    # Its kernels are compiled at first use, in about 15 s, and cached on disk.
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    from flash_attn.cute import flash_attn_varlen_func

    def attend(*arguments: Tensor, **options: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The kernel compiler warns about its own arguments.
            result = flash_attn_varlen_func(*arguments, **options)
        output = result[0] if isinstance(result, tuple) else result
        assert isinstance(output, Tensor)
        return output

    return attend
