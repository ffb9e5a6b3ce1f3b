"""Training with weights, average, gradients and optimiser states sharded over the workers, by torch's FSDP2.

For networks that do not fit on one GPU together with them. Its updates are those of `Training`, up to rounding, but not
recorded as CUDA graphs, which would keep the gathered weights.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from model.config.training import Train, WeightsKind
from model.network.denoiser import Denoiser
from model.network.packing import Budget, pack
from model.training import objective
from model.training.optimizer import Average, decay_groups
from model.training.trainer import Training


class _Whole(nn.Module):
    """A network in one piece: FSDP2 gathers it before `forward`, and scatters its gradients after the backward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        """Result of the function for the gathered network."""
        return function(self.network)


class _ShardedAverage(Average):
    """An average whose module is sharded; the parameters of neither network move into a buffer."""

    def __init__(self, network: nn.Module, config: Train, device: torch.device) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.config, self.weight = config, torch.ones((), device=device)


class Sharded(Training):
    """See the module; arguments as for `Training`."""

    def _place_weights(self) -> None:
        """Shard network and average over the workers; no GPU ever holds more than one whole parameter."""
        if self.workers.count == 1:
            raise ValueError("a sharded training needs more than one GPU; set ARC_GPUS, or unset ARC_SHARD")
        optimizer, adapters = self.config.optimizer.name, self.config.finetune.adapters
        if optimizer != "adamw" or adapters == "lora":
            raise ValueError(
                f"train.optimizer.name is {optimizer!r} and train.finetune.adapters {adapters!r}; a sharded training "
                "takes 'adamw' without adapters (Muon and NorMuon need whole matrices); change that or unset ARC_SHARD"
            )
        if self.config.finetune.task_table == "frozen":
            raise ValueError(
                "train.finetune.task_table is 'frozen'; a sharded training trains all weights: set it to 'trained', or "
                "unset ARC_SHARD"
            )
        self.mesh = init_device_mesh(self.device.type, (self.workers.count,))
        self.average = _ShardedAverage(self.network, self.config, self.device)
        self.whole, self.whole_average = (self._shard(network) for network in (self.network, self.average.module))
        self.parameters = list(self.network.parameters())
        config = self.config.optimizer
        # Not `optimizers`: their rate is a tensor, for CUDA graphs.
        groups = decay_groups(self.network.named_parameters(), self.config)
        self.optimizers = [torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)]
        self.add_gradient, self.apply = self._add_gradient, self._apply

    def _shard(self, network: nn.Module) -> _Whole:
        """`network`, in the CPU's memory so far, as this worker's shards on its device."""
        values = {name: tensor.clone() for name, tensor in network.state_dict(keep_vars=False).items()}
        buffers = {name: tensor.clone() for name, tensor in network.named_buffers()}
        network.to("meta")
        whole = _Whole(network)
        half = MixedPrecisionPolicy(torch.bfloat16 if self.half else None, torch.float32)
        fully_shard(whole, mesh=self.mesh, mp_policy=half)
        whole.to_empty(device=self.device)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                value = values[name].to(self.device)
                _part(parameter).copy_(_part(distribute_tensor(value, self.mesh, [Shard(0)])))
            for name, tensor in network.named_buffers():
                tensor.copy_(buffers[name])
        return whole

    def weights(self, kind: WeightsKind) -> dict[str, Tensor]:
        """As Training's, in the CPU's memory and at the first worker alone; every worker must call it."""
        return self._collected((self.average.module if kind == "ema" else self.network).state_dict())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As Training's, in the CPU's memory and at the first worker alone; every worker must call it."""
        tensors, plain = super().state()
        return self._collected(tensors), plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """As Training's."""
        parts = {
            name: distribute_tensor(tensor, self.mesh, [Shard(0)]) if tensor.dim() and name != "sums" else tensor
            for name, tensor in tensors.items()
        }
        super().restore(parts, plain)

    def probe(self) -> dict[str, Any]:
        """As Training's."""
        return cast("dict[str, Any]", self._gathered(super().probe))

    def _add_gradient(
        self, table: Tensor, key: Tensor, progress: Tensor, budget: Budget, mode: objective.StepMode, first: bool
    ) -> None:
        table, key, progress = (x.to(self.device) for x in (table, key, progress))

        def learn(network: nn.Module) -> tuple[Tensor, Tensor]:
            packed = pack(table, self.data, self.network.prefix_length, budget)
            draw = objective.BatchRandomness(key, progress)
            config = self.config
            loss, sums = objective.training_loss(cast("Denoiser", network), packed, self.levels, config, draw, mode)
            # Micro-batches of other workers may use parameters that this one does not; all must reduce the same ones.
            return loss + 0.0 * torch.stack([p.flatten()[0].float() for p in network.parameters()]).sum(), sums

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            value, sums = self.whole(learn)
        if first:
            for parameter in self.parameters:
                parameter.grad = None
        # FSDP2 takes the mean over the workers.
        (value * (self.workers.count / self.config.accumulation)).backward()
        self.sums[:-1] += sums

    def _share_gradient(self) -> None:
        """FSDP2 has."""

    @torch.no_grad()
    def _apply(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.sums[-1] += _full(norm)
        self.optimizers[0].step()
        for average, current in zip(self.average.module.parameters(), self.parameters, strict=True):
            _part(average).lerp_(_part(current), self.average.weight)

    def _validate(self, *arguments: Any) -> dict[str, float]:
        return cast("dict[str, float]", self._gathered(lambda: super(Sharded, self)._validate(*arguments)))

    def _collected(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        result = {}
        for name, part in parts.items():  # One after the other: no GPU gathers more than one of them.
            whole = _full(part)
            if self.workers.rank == 0:
                result[name] = whole.cpu()
        return result

    def _gathered(self, work: Callable[[], Any]) -> Any:
        """Result of `work` with the network and its average gathered."""
        try:
            return self.whole(lambda _: self.whole_average(lambda _: work()))
        finally:
            for whole in (self.whole, self.whole_average):
                cast("FSDPModule", whole).reshard()


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
