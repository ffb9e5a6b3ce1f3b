"""The training loop.

Every random draw of update k is a function of (seed, k), so that a resumed run equals an unbroken one.
"""

import math
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config.training import Train, WeightsKind
from model.diffusion.schedule import cosine_schedule, levels
from model.diffusion.self_conditioning import training_progress
from model.network.denoiser import Denoiser, build
from model.network.device_data import to_device
from model.network.packing import Budget, pack, pad_to_budget
from model.ops import compilation
from model.ops.cuda_graph import GraphedFunction
from model.ops.keyed_random import hash_key
from model.ops.process_group import Workers
from model.ops.random_purposes import STEP_MODE_CHUNK
from model.puzzles.arrays import Dataset
from model.training import objective
from model.training.batches import Last, Place, Stream
from model.training.history import Diverged, TrainingError, history_row
from model.training.lora import adapt, adapters, merged
from model.training.noised_batch import NoisedBatch
from model.training.optimizer import Average, buffer, clip, learning_rate, optimizers, set_rate
from model.training.probes import adapter_gradients, probe
from model.training.validation import Validation, due, exhausted


class Stopped(RuntimeError):
    """A training that was asked to stop; its state was saved."""


class Training:
    """One training: network, average, optimisers, stream, and the sums behind the next row of the history."""

    def __init__(
        self,
        dataset: Dataset,
        weight: NDArray[np.float64],
        task_rows: int,
        config: Train,
        seed: int,
        device: torch.device,
        start: dict[str, Tensor] | None = None,
        validation: Dataset | None = None,
        last_weight: NDArray[np.float64] | None = None,
    ) -> None:
        """`weight` (pairs,) are the sampling weights of dataset.pairs, `start` weights to begin with.

        `validation` are held-out pairs for config.validation and config.early_stop, with the views of `dataset`;
        `last_weight` (pairs,) are the weights in the updates of config.last_share_on_evaluation.
        """
        self.config, self.seed, self.device = config, seed, device
        self.workers = Workers()
        self.micro_batches = self.workers.mine(config.accumulation)
        torch.manual_seed(seed)
        self.network = build(config, task_rows)
        if start is not None:
            self.network.load_state_dict(start)
        if config.finetune.adapters == "lora":
            adapt(self.network, config.finetune)
        elif config.finetune.task_table == "frozen":
            self.network.task_table.requires_grad_(False)
        cuda = device.type == "cuda"
        self.half = config.precision == "bf16" or (config.precision == "auto" and cuda)
        self.compiled = config.compile == "always" or (config.compile == "auto" and cuda)
        self._place_weights()
        last = None
        if config.last_share_on_evaluation:
            if last_weight is None:
                raise ValueError("train.last_share_on_evaluation needs the sampling weights of the last updates")
            others = round(config.optimizer_steps * (1 - config.last_share_on_evaluation))
            last = Last(others * config.accumulation, last_weight)
        prefix = self.network.prefix_length
        self.stream = Stream(dataset.pairs, dataset.views, weight, config.batch, prefix, seed, last)
        self.data = to_device(dataset, config.network, device)
        self.levels = levels(cosine_schedule(config.noise), config.network.time_input, device)
        if config.early_stop and validation is None:
            raise ValueError("train.early_stop needs validation pairs with their solutions")
        self.validation = Validation(validation, config, self.levels, seed) if validation else None
        self.history: list[dict[str, float]] = []
        self.stopped_early = False
        self.sums = torch.zeros(len(objective.METRICS) + 1, device=device)
        self.step = 0

    def _place_weights(self) -> None:
        """Move the network to the device, and make its average, optimisers and gradients there."""
        self.network.to(self.device)
        self.average = Average(self.network, self.config)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizers = optimizers(self.network, self.config)
        self.gradient, self.gradients = buffer(self.parameters)
        cuda = self.device.type == "cuda"
        self.add_gradient = GraphedFunction(self._add_gradient) if cuda else self._add_gradient
        self.apply = GraphedFunction(self._apply) if cuda else self._apply

    def run(
        self,
        *,
        on_row: Callable[[dict[str, float]], None],
        on_candidate: Callable[[int], None],
        on_save: Callable[[], None],
        stop: Callable[[], bool],
        save_seconds: float = math.inf,
    ) -> None:
        """Train to the last step, or until config.early_stop ends it, which sets `stopped_early`.

        Saves every `save_seconds`. Raises Diverged, or Stopped after a save if `stop()` returns true.
        """
        batches = self.stream.batches(self.step * self.config.accumulation, self.stream.place)
        every = self.config.optimizer_steps // self.config.candidates
        saved = time.monotonic()
        self.network.train()
        while self.step < self.config.optimizer_steps and not self.stopped_early:
            self.update([next(batches) for _ in range(self.config.accumulation)])
            if self.step % self.config.log_every == 0 or self.step == self.config.optimizer_steps:
                on_row(self._row())
            late = time.monotonic() - saved >= save_seconds
            stopping, saving, self.stopped_early = self.workers.any(stop(), late, self.stopped_early)
            if self.step % every == 0 or self.stopped_early:
                on_candidate(self.step)
            if stopping or saving:
                self._check_finite()
                self._collect()
                on_save()
                saved = time.monotonic()
            if stopping:
                raise Stopped(f"stopped after update {self.step} of {self.config.optimizer_steps}; the state is saved")

    def update(self, batches: list[list[tuple[int, ...]]]) -> None:
        """One optimiser update on these micro-batches."""
        with compilation.set_enabled(self.compiled, dynamic=self.device.type != "cuda"):
            self._update(batches)
        self.step += 1

    def _update(self, batches: list[list[tuple[int, ...]]]) -> None:
        for micro in self.micro_batches:
            mode = self.step_mode(micro)
            if self.config.finetune.dropout:  # The adapters' draws from torch's own generator.
                torch.manual_seed((self.seed << 32) + self.step * self.config.accumulation + micro)
            padded = self.stream.budget if self.device.type == "cuda" else None
            table, budget = pad_to_budget(self._rows(batches[micro]), self.network.prefix_length, padded)
            key = hash_key(torch.tensor(self.seed), self.step, micro)
            progress = torch.tensor(training_progress(self.step, self.config.optimizer_steps))
            first = micro == self.micro_batches[0]
            self.add_gradient(torch.from_numpy(table), key, progress, budget, mode, first)
        for optimizer in self.optimizers:
            set_rate(optimizer, learning_rate(self.config, self.step))
        self.average.set_weight(self.step)
        self._share_gradient()
        self.apply()

    def step_mode(self, micro: int) -> objective.StepMode:
        """What kind of pass micro-batch `micro` of the next update is: each tosses its own coin (ledger 8)."""
        conditioning = self.config.self_conditioning
        number = self.step * self.config.accumulation + micro
        key = np.array([self.seed, STEP_MODE_CHUNK + number], dtype=np.uint64)
        coin = np.random.Generator(np.random.Philox(key=key)).random()
        # Without features only a blend has a use for the estimate.
        used = conditioning.features != "none" or conditioning.training == "blend"
        estimate = used and coin < conditioning.rate
        conditioned = estimate or coin < conditioning.rate + conditioning.null_conditioning_rate
        return objective.StepMode(estimate or conditioning.reverses, conditioned)

    def weights(self, kind: WeightsKind) -> dict[str, Tensor]:
        """Averaged or raw weights by name, with adapters merged."""
        return merged(self.average.module if kind == "ema" else self.network)

    def probe(self) -> dict[str, Any]:
        """Effect of every mechanism on one batch. Raises TrainingError for one that is on and has no effect."""
        padded = self.stream.budget if self.device.type == "cuda" else None
        table, budget = pad_to_budget(self._rows(next(self.stream.batches())), self.network.prefix_length, padded)
        key = hash_key(torch.tensor(self.seed, device=self.device), self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            packed = pack(torch.from_numpy(table).to(self.device), self.data, self.network.prefix_length, budget)
            batch = NoisedBatch(packed, self.levels, self.config.self_conditioning, key)
            averaged = self.config.evaluated_weights == "ema"
            effects, idle = probe(self.network, cast("Denoiser", self.average.module), batch, averaged=averaged)
            if adapters(self.network):
                draw = objective.BatchRandomness(key, torch.ones((), device=self.device))
                mode = objective.StepMode(estimate=False, conditioned=True)
                value, _ = objective.training_loss(self.network, packed, self.levels, self.config, draw, mode)
                effects["adapter_gradients"], without = adapter_gradients(self.network, value)
                idle += without
        if idle:
            raise TrainingError(f"switched on, but of no effect: {'; '.join(idle)}")
        return effects

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a resumed run needs: tensors by name, and plain values."""
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.module.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for parameter, entries in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{i}/{parameter}/{k}": v for k, v in entries.items()}
        plain = {"step": self.step, "history": self.history, "place": self.stream.place}
        return tensors | {"sums": self.sums}, plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restore a `state`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network/"))
        self.average.module.load_state_dict(part("average/"))
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in part(f"optimizer/{i}/").items():
                parameter, entry = name.split("/")
                state.setdefault(int(parameter), {})[entry] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.sums.copy_(tensors["sums"])
        if self.workers.rank:  # The first worker has the sums of all.
            self.sums.zero_()
        self.step, self.history = plain["step"], plain["history"]
        self.stream.place = Place(*plain["place"])
        self.stopped_early = exhausted(self.history, self.config.early_stop)

    def _add_gradient(
        self, table: Tensor, key: Tensor, progress: Tensor, budget: Budget, mode: objective.StepMode, first: bool
    ) -> None:
        """Add a packed batch's gradients and METRICS to those of this update, of which it may be the first."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            packed = pack(table, self.data, self.network.prefix_length, budget)
            draw = objective.BatchRandomness(key, progress)
            value, sums = objective.training_loss(self.network, packed, self.levels, self.config, draw, mode)
        gradients = torch.autograd.grad(value / self.config.accumulation, self.parameters, allow_unused=True)
        unused = [total for total, g in zip(self.gradients, gradients, strict=True) if g is None]
        if first and unused:
            torch._foreach_zero_(unused)
        put = torch._foreach_copy_ if first else torch._foreach_add_
        there = [(total, g) for total, g in zip(self.gradients, gradients, strict=True) if g is not None]
        put([total for total, _ in there], [g for _, g in there])
        self.sums[:-1] += sums

    def _share_gradient(self) -> None:
        self.workers.add(self.gradient)

    def _apply(self) -> None:
        """Clip, and update weights and average."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        self.sums[-1] += clip(self.gradient, self.config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update()

    def _rows(self, rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Rows of the stream with the row of the task table in place of the task."""
        if self.config.network.conditioning != "augmented-task":
            return rows
        return [(view, view, *grids) for _, view, *grids in rows]

    def _collect(self, *, keep: bool = False) -> None:
        """Sum `sums` over the workers, for the first one, or with `keep` for all."""
        if self.workers.count > 1:
            if self.workers.rank:
                self.sums[-1] = 0  # Every worker has the norm of the sum of all gradients.
            self.workers.add(self.sums)
            if self.workers.rank and not keep:
                self.sums.zero_()

    def _check_finite(self) -> None:
        """Raise Diverged at all workers if a loss or gradient norm since the last row is not finite."""
        if self.workers.any(not bool(torch.isfinite(self.sums).all()))[0]:
            raise Diverged(
                f"update {self.step}: a loss or gradient norm since the last row is not finite; the training diverged "
                "and is not saved. Lower train.optimizer.learning_rate or lengthen train.warmup_steps"
            )

    def _row(self) -> dict[str, float]:
        """Means since the last row; waits for the device."""
        self._collect(keep=True)
        last = int(self.history[-1]["step"]) if self.history else 0
        row = history_row(self.sums.tolist(), self.config, self.step, self.step - last)
        self.sums.zero_()
        if self.validation and due(self.config, last, self.step):
            row |= self._validate(self.validation)
        self.history.append(row)
        self.stopped_early = exhausted(self.history, self.config.early_stop)
        return row

    def _validate(self, validation: Validation) -> dict[str, float]:
        averaged = self.config.evaluated_weights == "ema"
        network = cast("Denoiser", self.average.module) if averaged else self.network
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            return validation.measure(network)
