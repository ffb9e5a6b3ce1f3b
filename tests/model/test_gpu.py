"""The GPU path against the CPU's: skipped where there is no GPU."""

import pytest
import torch

from model.inference import transfers
from model.network.convolution import neighbours
from model.ops import compilation, dropout
from model.ops import qkv as heads
from model.ops.attention import attention
from model.ops.convolution import Neighbours, convolved_swiglu
from model.ops.cuda_graph import GraphedFunction
from model.ops.segments import make_segments
from model.ops.swiglu import swiglu
from model.training.muon import Muon
from model.training.optimizer import buffer
from model.training.trainer import Training
from model.training.validation import CROSS_ENTROPY
from tasks.common.presets import merge
from tests.conftest import experiment
from tests.support.masked_attention import masked_attention
from tests.support.packed import network, packed_rows
from tests.support.small_training import dataset, held_out

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),  # Of the compilers about themselves.
]


def test_the_kernel_and_its_gradients_equal_the_definition():
    torch.manual_seed(1)
    lengths = torch.tensor([5, 30, 2, 60]), torch.tensor([9, 31, 100, 61])
    rows = [torch.randn(int(n.sum()), 3, 64) for n in (lengths[0], lengths[1], lengths[1])]
    plain = [r.clone().requires_grad_() for r in rows]
    ours = [r.cuda().bfloat16().requires_grad_() for r in rows]
    expected = masked_attention(*plain, make_segments(*lengths, 60, 100))
    result = attention(*ours, make_segments(lengths[0].cuda(), lengths[1].cuda(), 60, 100))
    weight = torch.randn_like(expected)
    a = torch.autograd.grad((expected * weight).sum(), plain)
    b = torch.autograd.grad((result * weight.cuda().bfloat16()).sum(), ours)
    for x, y in zip((expected, *a), (result, *b), strict=True):
        assert (x - y.cpu().float()).norm() / x.norm() < 0.01


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize(("heads_", "width", "longest"), [(3, 128, 130), (2, 24, 130), (3, 128, 800)])
def test_the_attention_of_single_queries_and_its_gradients_equal_the_definition(heads_, width, longest, skips):
    torch.manual_seed(2)
    counts, lengths, skipped = torch.tensor([1, 1, 0, 1]), torch.tensor([5, longest, 7, 64]), torch.tensor([3, 0, 2, 9])
    extra = skipped if skips else torch.zeros_like(skipped)
    rows = [torch.randn(n, heads_, width) for n in (3, *[int((lengths + extra).sum())] * 2)]
    weight = torch.randn_like(rows[0])
    by_device = []
    for device in ("cpu", "cuda"):
        segments = make_segments(
            *(x.to(device) for x in (counts, lengths)), 1, longest, skipped.to(device) if skips else None
        )
        own = [r.to(device).requires_grad_() for r in rows]
        result = (masked_attention if device == "cpu" else attention)(*own, segments)
        by_device.append([result, *torch.autograd.grad((result * weight.to(device)).sum(), own)])
    used = torch.cat([(torch.arange(n + e) < n) & (c > 0) for n, e, c in zip(lengths, extra, counts, strict=True)])
    for i, (a, b) in enumerate(zip(*by_device, strict=True)):
        kept = used if i > 1 else slice(None)
        assert torch.allclose(a[kept], b.cpu()[kept], atol=1e-5)


@pytest.mark.parametrize(("heads_", "width"), [(3, 128), (2, 64), (3, 24)])
def test_the_heads_kernel_and_its_gradients_equal_plain_torch(heads_, width):
    contexts, targets = 21, 13
    order = torch.randperm(contexts + targets)
    slots = order[:contexts], order[contexts:]
    inputs = [torch.randn(n, 3, heads_, width) for n in (contexts, targets)]
    rotations = [tuple(torch.rand(n, 1, width // 2) for _ in range(2)) for n in (contexts, targets)]
    own = torch.zeros(contexts + targets, 1, 1).index_fill(0, slots[0], 1)
    weights = [
        torch.randn(n, heads_, width) for n in (contexts, *[contexts + targets] * 2, targets, *[contexts + targets] * 2)
    ]
    by_device = []
    for device in ("cpu", "cuda"):
        qkv = [x.to(device).requires_grad_() for x in inputs]
        turns = [tuple(t.to(device) for t in r) for r in rotations]
        where = [p.to(device) for p in slots]
        query, keys, values, *both = heads.scatter_context_kv(qkv[0], turns[0], *where)
        alone = values.detach().clone()  # `scatter_target_kv` writes into the same memory on a GPU.
        target_query, all_keys, all_values = heads.scatter_target_kv(qkv[1], turns[1], where[1], *both)
        mask = own.to(device) > 0
        results = query, torch.where(mask, keys, 0), torch.where(mask, values, 0), target_query, all_keys, all_values
        value = sum((r * w.to(device)).sum() for r, w in zip(results, weights, strict=True))
        by_device.append([alone, target_query, query, all_keys, all_values, *torch.autograd.grad(value, qkv)])
    for a, b in zip(*by_device, strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-5)


@pytest.mark.parametrize(("rows", "width"), [(5, 24), (1, 256), (90, 300), (41, 1024)])
def test_the_gate_kernel_and_its_gradient_equal_plain_torch(rows, width):
    hidden, weight = torch.randn(rows, 2 * width), torch.randn(rows, width)
    by_device = []
    for device in ("cpu", "cuda"):
        own = hidden.to(device).requires_grad_()
        result = swiglu(own)
        by_device.append([result, *torch.autograd.grad((result * weight.to(device)).sum(), own)])
    for a, b in zip(*by_device, strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-5)


@pytest.mark.parametrize("width", [24, 300, 1024])
def test_the_kernels_of_gate_and_convolution_and_their_gradients_equal_gathered_rows(width):
    examples = [(0, view, 0, height, 11, 0, 3, 6) for view in range(8) for height in (1, 9, 17)]
    for found in neighbours(packed_rows(network(), examples)):
        rows = len(found.near)
        hidden, weight, kernel = torch.randn(rows, 2 * width), torch.randn(rows, width), torch.randn(9, width)
        by_device = []
        for device in ("cpu", "cuda"):
            own = [v.to(device).requires_grad_() for v in (hidden, kernel)]
            result = convolved_swiglu(*own, Neighbours(*(x.to(device) for x in found)))
            by_device.append([result, *torch.autograd.grad((result * weight.to(device)).sum(), own)])
        for a, b in zip(*by_device, strict=True):
            assert torch.allclose(a, b.cpu(), rtol=1e-4, atol=1e-3)


def test_a_gpu_drops_what_a_cpu_drops():
    seed = dropout.seeds(torch.tensor(7), 2)[1]
    for on in (False, True):
        with compilation.set_enabled(on):
            compiled = compilation.maybe_compile(dropout.dropout)(torch.ones(300, 70, device="cuda"), 0.2, seed.cuda())
        assert torch.equal(compiled.cpu(), dropout.dropout(torch.ones(300, 70), 0.2, seed))


V8 = {
    "network": {"task_embedding": "added", "embedding_std": 0.1, "head_gains": "learned"},
    "optimizer": {"name": "normuon", "table_weight_decay": 0.0},
    "noise_levels": {"exponent": 2.0, "pure_noise_share": 0.2},
    "loss_mean": "root-cells",
}

MECHANISMS = {"network": {"convolution": "3x3", "turns": 2, "hidden_dropout": 0.1}}


@pytest.mark.parametrize(
    "more", [{}, V8, {"network": {"task_tokens": 3}}, MECHANISMS], ids=["v3", "v8", "longer-prefix", "mechanisms"]
)
@pytest.mark.parametrize("compile_", ["never", "always"])
def test_the_gradient_of_a_recorded_packed_step_equals_the_cpus(compile_, more):
    network = {"width": 128, "heads": 2, "dropout": 0.1, "embedding_dropout": 0.1, "input_grid_dropout": 0.1}
    more = merge(more, {"network": network})
    config = experiment(train=merge(more, {"precision": "fp32", "compile": "never"})).train
    half = experiment(train=merge(more, {"precision": "bf16", "compile": compile_})).train
    cpu = Training(dataset(), torch.ones(18).numpy(), 6, config, 0, torch.device("cpu"))
    gpu = Training(dataset(), torch.ones(18).numpy(), 6, half, 0, torch.device("cuda"))
    torch.nn.init.normal_(cpu.network.colour_head.weight, std=0.1)
    for block in cpu.network.blocks:
        if block.convolution is not None:
            torch.nn.init.normal_(block.convolution, std=0.2)
    gpu.network.load_state_dict(cpu.network.state_dict())
    batches = cpu.stream.batches()
    for _ in range(6):
        rows = next(batches)
        seen = []
        for subject in (cpu, gpu):
            kept = {}
            apply = subject.apply

            def keep(subject=subject, kept=kept, apply=apply):
                kept["gradient"] = torch.cat([g.flatten() for g in subject.gradients]).float().cpu()
                kept["loss"] = float(subject.sums[0])
                subject.sums.zero_()
                apply()

            subject.apply = keep
            subject.update([rows])
            subject.apply = apply
            seen.append(kept)
        assert (seen[0]["gradient"] - seen[1]["gradient"]).norm() / seen[0]["gradient"].norm() < 0.05
        assert seen[1]["loss"] == pytest.approx(seen[0]["loss"], rel=0.02)
        gpu.network.load_state_dict(cpu.network.state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by_neuron", [False, True])
def test_recorded_steps_of_muon_equal_the_cpus(by_neuron):
    """The first runs as it is, the second is recorded with a stream for each shape, the others are replayed."""
    torch.manual_seed(0)
    shapes = [((96, 32), 3), ((32, 32), 1), ((64, 32), 2), ((32, 48), 1)] * 2
    starts = [torch.randn(shape) for shape, _ in shapes]
    updates = [[torch.randn_like(start) for start in starts] for _ in range(5)]
    moved = []
    for device in ("cpu", "cuda"):
        weights = [torch.nn.Parameter(start.to(device, copy=True)) for start in starts]
        buffer(weights, move=True)
        rate = torch.tensor(0.1, device=device) if device == "cuda" else 0.1
        parameters = [(weight, pieces) for weight, (_, pieces) in zip(weights, shapes, strict=True)]
        optimizer = Muon(parameters, learning_rate=rate, weight_decay=0.1, by_neuron=by_neuron)
        for weight, gradient in zip(weights, buffer(weights)[1], strict=True):
            weight.grad = gradient
        step = GraphedFunction(optimizer.step) if device == "cuda" else optimizer.step
        with compilation.set_enabled(device == "cuda"):
            for gradients in updates:
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad.copy_(gradient)
                step()
        moved.append([weight.detach().cpu() - start for weight, start in zip(weights, starts, strict=True)])
    for a, b in zip(*moved, strict=True):
        assert 0 < (a - b).norm() / a.norm() < 0.03, "of the products in bfloat16"


def test_looks_at_validation_pairs_between_recorded_updates_change_none_of_them():
    network = {"width": 128, "heads": 2}
    losses = []
    for stop in (None, {"every": 1, "patience": 10, "improvement": 0.0}):
        config = experiment(train={"network": network, "log_every": 1, "compile": "never", "early_stop": stop}).train
        subject = Training(dataset(), torch.ones(18).numpy(), 6, config, 0, torch.device("cuda"), None, held_out())
        subject.run(on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=lambda: False)
        losses.append([row["loss"] for row in subject.history])
        looks = [row[CROSS_ENTROPY] for row in subject.history if CROSS_ENTROPY in row]
        assert len(looks) == (len(subject.history) if stop else 1)  # The last row always has one.
    assert looks[0] == pytest.approx(2.3, abs=0.1)  # Hardly trained: a tenth for every colour.
    assert losses[1] == pytest.approx(losses[0][: len(losses[1])], rel=1e-2)


def test_what_lay_in_memory_before_reaches_no_result():
    """Keys and values of targets share a buffer with those of contexts, which are read before targets write theirs."""
    config = experiment(train={"network": {"width": 128, "heads": 1}, "compile": "never"}).train
    subject = Training(dataset(), torch.ones(18).numpy(), 6, config, 0, torch.device("cuda"))
    batches = subject.stream.batches()
    for _ in range(2):
        old = [torch.full((1 << size,), float("nan"), device="cuda") for size in range(8, 26)]
        del old
        subject.update([next(batches)])
    assert torch.isfinite(subject.sums).all()
    assert torch.isfinite(subject.gradient).all()


def test_a_copy_to_the_cpu_holds_what_was_there_when_it_began():
    values = torch.arange(1 << 22)
    there = transfers.send(values, torch.device("cuda"))
    doubled = there * 2
    wait = transfers.receive([there, doubled])
    for _ in range(20):
        there.mul_(3)  # Begun later, on the same stream.
    assert all(torch.equal(copy, factor * values) for copy, factor in zip(wait(), (1, 2), strict=True))
    assert not torch.equal(there.cpu(), values)
