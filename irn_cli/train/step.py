"""One training step, eager or as a captured CUDA graph.

Everything from the crops to the average is tensor arithmetic without a branch on data, so that a graph can hold it.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from irn_cli.device import Precision
from irn_cli.errors import InputError
from irn_cli.model import IRN, quantise
from irn_cli.train import losses
from irn_cli.train.adam import Adam
from irn_cli.train.batches import Batch, Batches
from irn_cli.train.data import Pictures
from irn_cli.train.dense import Streams, lay_out, use_lean_blocks
from irn_cli.train.discriminator import Adversary
from irn_cli.train.guard import Guard
from irn_cli.train.muon import Muon
from irn_cli.train.recipe import Recipe


class Passes(nn.Module):
    """Both directions as training needs them: x -> y, z; and quantise(y) with a drawn z -> restored x."""

    def __init__(self, network: IRN, *, recompute: bool) -> None:
        super().__init__()
        self.network = network
        self.recompute = recompute

    def forward(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = x
        for operation in self.network.operations:
            u = self._run(operation.downscale, u)  # type: ignore[arg-type]
        y, z = torch.split(u, [3, u.shape[1] - 3], 1)
        u = torch.cat([quantise(y), drawn], 1)
        for operation in reversed(self.network.operations):
            u = self._run(operation.upscale, u)  # type: ignore[arg-type]
        return y, z, u

    def _run(self, operation: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            u = checkpoint(operation, u, use_reentrant=False, preserve_rng_state=False)
        else:
            u = operation(u)
        return u.contiguous(memory_format=torch.channels_last)  # the Haar transform forgets it


class Step:
    """A training step and all tensors that it changes::

        masters (float32) -> working copy (bfloat16 convolutions) -> both passes -> losses -> gradients
               ^                                                                                  |
               +---- average <--- Muon or Adam <--- guard <--- norm, clipping <--- float32 -------+

    Under torchrun each process works on its share of the batch, and the result is that of one process.
    """

    def __init__(
        self,
        model: IRN,
        recipe: Recipe,
        pictures: Pictures,
        device: torch.device,
        precision: Precision,
        features: losses.VGGFeatures | None = None,
    ) -> None:
        """Prepare the step.

        Args:
            model: the network to train; it becomes the step's own.
            recipe: what to do.
            pictures: what to train on.
            device: where.
            precision: the convolutions' arithmetic; all the rest is float32.
            features: what the perceptual term of stage irn-plus compares; without them there is no such term.

        Raises:
            UsageError: the recipe cannot be run so.
        """
        self.recipe, self.device, self.precision = recipe, device, precision
        self.stamp = pictures.stamp
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        self.process = dist.get_rank() if dist.is_initialized() else 0
        channels = model.config.latent_channels
        self.batches = Batches(pictures, recipe, channels, device, self.process, self.processes)

        self.master = model.to(device, memory_format=torch.channels_last).train().requires_grad_(True)  # type: ignore[call-overload]
        same = {} if precision == "bf16" else {id(weight): weight for weight in self.master.parameters()}
        working = deepcopy(self.master, same)  # in float32 it works on the masters themselves
        self.captured = device.type == "cuda" and self.processes == 1
        streams = Streams.on(device) if self.captured else None
        self._blocks = use_lean_blocks(working, torch.bfloat16 if precision == "bf16" else torch.float32, streams)
        self.passes = Passes(working, recompute=recipe.recompute)
        self._forward = DistributedDataParallel(self.passes) if self.processes > 1 else self.passes

        # What outlives a step is made once and filled in place: a captured graph knows addresses only.
        self.weights = list(self.master.parameters())
        self.copies = list(working.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        self.rate, self.averaging = torch.zeros(2, device=device).unbind()
        self.optimiser = _optimiser(recipe, self.weights, self.rate)
        self.adversary = Adversary(recipe, device, features) if recipe.stage == "irn-plus" else None
        self.guard = Guard(recipe, device)
        self.shown: dict[str, Tensor] = {}

        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}

    def run(self, number: int, rate: float, setback: float = 1.0) -> None:
        """Do one step; on a GPU this returns before it is done.

        Args:
            number: which of the run's steps, from 0.
            rate: the generator's learning rate.
            setback: what the guard's returns to a good state have the rates of both sides multiplied by.
        """
        self.batches.prepare(number)
        self.rate.fill_(rate * setback)
        self.averaging.fill_(1 - min(self.recipe.average, (1 + number) / (10 + number)))
        alone = False
        if self.adversary is not None:
            self.adversary.rate.fill_(self.recipe.discriminator_lr * setback)
            alone = number < self.recipe.discriminator_alone
        if not self.captured:
            self._compute(alone)
            return
        if alone not in self._graphs:
            self._graphs.clear()  # the discriminator is alone only at first: that graph's memory is free again
            self._graphs[alone] = self._capture(alone)
        graph, self.shown = self._graphs[alone]
        graph.replay()

    def learn(self, batch: Batch) -> None:
        """Take one step of the generator, and of the discriminator where there is one."""
        # Forward and backward, the batch's parts one after another.
        self._refresh()
        shown, restored = [], []
        for k, part in enumerate(batch.parts(self.recipe.accumulate)):
            if k == 0 or self.precision == "bf16":  # backward hands over its own, which saves adding each one to zeros
                for copy in self.copies:
                    copy.grad = None
            terms, back = self._terms(self._forward, part)
            loss = torch.stack([getattr(self.recipe, name) * term for name, term in terms.items()]).sum()
            (loss / self.recipe.accumulate).backward()  # type: ignore[no-untyped-call]
            self._collect(first=k == 0)
            shown.append(torch.stack([loss, *terms.values()]).detach())
            restored.append(back.detach())

        # Clip.
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in self.weights if weight.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(self.weights, self.recipe.clip, norm)

        # Update, unless the guard finds the step bad; every process must judge alike.
        values = torch.stack(shown).mean(0)
        if self.processes > 1:
            dist.all_reduce(values)
            values /= self.processes
        bad = self.guard.judge(values[0], norm)
        self.optimiser.update(bad)
        self.shown = dict(zip(["loss", *terms], values.unbind(), strict=True)) | {"grad_norm": norm}
        if self.adversary is not None:
            self.shown["discriminator"], _ = self.adversary.learn(batch.x, torch.cat(restored), bad)

        # Average.
        difference = torch._foreach_sub([weight.detach() for weight in self.weights], self.average)
        torch._foreach_mul_(difference, self.averaging)
        torch._foreach_add_(self.average, difference)

    def learn_alone(self, batch: Batch) -> None:
        """Take one step of the discriminator only."""
        assert self.adversary is not None
        self._refresh()
        with torch.no_grad():
            restored = torch.cat([self.passes(x, drawn)[2] for x, _, drawn in batch.parts(self.recipe.accumulate)])
        loss, norm = self.adversary.learn(batch.x, restored, torch.zeros((), device=self.device))
        self.guard.count(~torch.isfinite(loss) | ~torch.isfinite(norm))
        self.shown = {"discriminator": loss, "grad_norm": norm}

    def read(self) -> dict[str, float]:
        """Wait for the device; the last step's loss, its terms and gradient norm, and the guard's counts."""
        values = self.shown | self.guard.state()
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def term_norms(self, number: int) -> dict[str, float]:
        """The gradient's norm of each term, times its weight, on a step's batch or its first part."""
        self.batches.prepare(number)
        self._refresh()
        part = next(self.batches.draw().parts(self.recipe.accumulate))
        terms, _ = self._terms(self.passes, part)
        norms = {}
        for name, term in terms.items():
            weighted = getattr(self.recipe, name) * term
            gradients = torch.autograd.grad(weighted, self.copies, retain_graph=True, allow_unused=True)
            used = [gradient.float() for gradient in gradients if gradient is not None]
            norms[f"{name}_norm"] = float(torch.nn.utils.get_total_norm(used))
        return norms

    def averaged(self) -> IRN:
        """A copy of the network that holds the averaged weights: what is validated and exported.

        Trained in bfloat16, they are rounded to it: both precisions then have the same weights, and their small
        pictures differ by a third as much (`benchmarks/`).
        """
        rounded = torch.bfloat16 if self.precision == "bf16" else torch.float32
        model: IRN = deepcopy(self.master)
        model.requires_grad_(False).eval()
        model.name, model.revision, model.temperatures = "weights", "0", self.recipe.temperature
        for weight, average in zip(model.parameters(), self.average, strict=True):
            weight.grad = None
            weight.copy_(average.to(rounded))
        return model

    def agree(self, value: float) -> float:
        """The largest of all processes' values: they must decide by the same one."""
        if self.processes == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return float(shared)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, by name; the tensors themselves, not copies."""
        tensors = {f"guard/{name}": value for name, value in self.guard.state().items()}
        names = [name for name, _ in self.master.named_parameters()]
        tensors |= {f"average/{name}": value for name, value in zip(names, self.average, strict=True)}
        learners: dict[str, tuple[nn.Module, Adam | Muon]] = {"weights": (self.master, self.optimiser)}
        if self.adversary is not None:
            learners["discriminator"] = self.adversary.network, self.adversary.optimiser
        for kind, (network, optimiser) in learners.items():
            for name, weight in network.named_parameters():
                tensors[f"{kind}/{name}"] = weight.detach()
                tensors |= {f"{kind}/{name}/{key}": value for key, value in optimiser.state[weight].items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            InputError: the tensors are those of another network.
        """
        mine = self.state()
        for name in [*mine, *tensors]:
            want = tuple(mine[name].shape) if name in mine else "nothing"
            have = tuple(tensors[name].shape) if name in tensors else "nothing"
            if want != have:
                raise InputError(f"the checkpoint is of another network: {name}: expected {want}, found {have}")
        for name, value in mine.items():
            value.copy_(tensors[name])

    def _compute(self, alone: bool) -> None:
        (self.learn_alone if alone else self.learn)(self.batches.draw())

    def _capture(self, alone: bool) -> tuple["torch.cuda.CUDAGraph", dict[str, Tensor]]:
        """Record the step as a CUDA graph; what warming up changed is put back."""
        before = {name: value.clone() for name, value in self.state().items()}
        generator = self.batches.generator
        with torch.cuda.device(self.device):  # streams are made on the current device
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._compute(alone)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=side):
                self._compute(alone)
        self.restore(before)
        generator.manual_seed(generator.initial_seed())
        return graph, self.shown

    @torch.no_grad()
    def _refresh(self) -> None:
        """Cast the masters into the working copy and lay it out: once a step, for both passes."""
        if self.precision == "bf16":
            torch._foreach_copy_(self.copies, self.weights)
        lay_out(self._blocks)

    def _collect(self, *, first: bool) -> None:
        """Bring the working copy's gradients to the masters, whose sum of all parts is in float32."""
        if self.precision == "bf16":
            gradients = [weight.grad for weight in self.weights]
            (torch._foreach_copy_ if first else torch._foreach_add_)(gradients, [copy.grad for copy in self.copies])

    def _terms(
        self, passes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The generator's terms, by the names of their weights in the recipe, and the restored picture."""
        y, z, restored = passes(batch.x, batch.drawn)
        terms = {
            "reconstruction": losses.reconstruction(batch.x, restored),
            "guide": losses.guide(y, batch.guide, self.recipe.guide_chroma),
        }
        if self.adversary is None:
            terms["distribution"] = losses.distribution(z)
        else:
            terms |= self.adversary.terms(batch.x, restored)
        return terms, restored


def _optimiser(recipe: Recipe, weights: Sequence[nn.Parameter], rate: Tensor) -> Adam | Muon:
    betas = (recipe.beta1, recipe.beta2)
    if recipe.optimiser == "muon":
        return Muon(weights, rate, momentum=recipe.momentum, betas=betas, weight_decay=recipe.weight_decay)
    return Adam(weights, rate, betas, recipe.weight_decay)
