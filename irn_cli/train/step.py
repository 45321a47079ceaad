"""One training step: batch, both passes, losses, gradients, guard, update, average; eager or as a captured CUDA graph.

Everything from the crops to the average is tensor arithmetic without a branch on data, so that a graph can hold it. The
guard works the same way: it tells the optimiser in a tensor whether to leave weights and state as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from irn_cli.device import Precision
from irn_cli.errors import InputError, UsageError
from irn_cli.model import IRN, quantise
from irn_cli.train import losses
from irn_cli.train.adam import Adam
from irn_cli.train.data import Pictures, Sampler, add_grain, gather, mixed_seed, shrinking_matrix
from irn_cli.train.dense import use_lean_blocks
from irn_cli.train.discriminator import Adversary
from irn_cli.train.muon import Muon
from irn_cli.train.recipe import Recipe

_LEVEL_DECAY = 0.99  # of the running level that the guard compares losses with


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

    Under torchrun each process works on its share of the batch. All of them draw the whole batch's random numbers, so
    that the result is that of one process.
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
        if recipe.batch % self.processes:
            raise UsageError(f"a batch of {recipe.batch} cannot be split evenly over {self.processes} processes")

        self.master = model.to(device, memory_format=torch.channels_last).train().requires_grad_(True)  # type: ignore[call-overload]
        same = {} if precision == "bf16" else {id(weight): weight for weight in self.master.parameters()}
        self.working = deepcopy(self.master, same)  # in float32 it works on the masters themselves
        use_lean_blocks(self.working, torch.bfloat16 if precision == "bf16" else torch.float32)
        self.passes = Passes(self.working, recompute=recipe.recompute)
        self._forward = DistributedDataParallel(self.passes) if self.processes > 1 else self.passes

        # What outlives a step is made once and filled in place: a captured graph knows addresses only.
        self.names = [name for name, _ in self.master.named_parameters()]
        self.weights = list(self.master.parameters())
        self.copies = list(self.working.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        self.rate = torch.zeros((), device=device)
        self.averaging = torch.zeros((), device=device)
        self.optimiser = _optimiser(recipe, self.weights, self.rate)
        self.adversary = Adversary(recipe, device, features) if recipe.stage == "irn-plus" else None
        self.guard = {
            "level": torch.zeros((), device=device),  # running level of the loss
            "seen": torch.zeros((), device=device),  # good steps so far
            "in_row": torch.zeros((), device=device),  # skipped steps up to now without a good one between
            "skipped": torch.zeros((), device=device),  # skipped steps in all
        }

        self.sampler = Sampler(pictures.places, recipe.batch, recipe.patch, recipe.scale,
                               flips=recipe.flips, turns=recipe.turns, seed=recipe.seed)  # fmt: skip
        self.margin = 2 * recipe.scale  # what bicubic reaches beyond a crop, rounded up to whole small pixels
        self.shrink = shrinking_matrix(recipe.patch + 2 * self.margin, recipe.scale).to(device)
        self.generator = torch.Generator(device)
        self.resident = fits(pictures.pixels, device)
        self.pixels = pictures.pixels.to(device) if self.resident else pictures.pixels
        self.picks = torch.zeros(recipe.batch, 6, dtype=torch.int64, device=device)
        side = recipe.patch + 2 * self.margin
        self.crops = torch.zeros(0 if self.resident else recipe.batch, side, side, 3, dtype=torch.uint8, device=device)

        self.shown: dict[str, Tensor] = {}
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}

    def run(self, step: int, rate: float) -> None:
        """Do step number `step` of the run (from 0) at the given rate; on a GPU this returns before it is done."""
        recipe = self.recipe
        self._prepare(step)
        self.rate.fill_(rate)
        self.averaging.fill_(1 - min(recipe.average, (1 + step) / (10 + step)))
        alone = self.adversary is not None and step < recipe.discriminator_alone
        if self.device.type != "cuda" or self.processes > 1:
            self._compute(alone)
            return
        if alone not in self._graphs:
            self._graphs.clear()  # the discriminator is alone only at first: that graph's memory is free again
            self._graphs[alone] = self._capture(alone)
        graph, self.shown = self._graphs[alone]
        graph.replay()

    def read(self) -> dict[str, float]:
        """Wait for the device; the last step's loss, its terms and gradient norm, and the guard's counts."""
        values = self.shown | self.guard
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def learn(self, x: Tensor, guide: Tensor, drawn: Tensor) -> None:
        """Take one step of the generator, and of the discriminator where there is one, on a batch.

        Args:
            x: (B, 3, P, P), in [0, 1].
            guide: (B, 3, P/s, P/s), the bicubic small picture.
            drawn: (B, 3 s^2 - 3, P/s, P/s), the latent that x is restored with.
        """
        self._refresh()
        for copy in self.copies:
            copy.grad = None  # backward then hands over its own, which saves adding each one to zeros
        terms, restored = self._terms(self._forward, x, guide, drawn)
        loss = self._weighted(terms)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if self.precision == "bf16":
            torch._foreach_copy_(gradients, [copy.grad for copy in self.copies])
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(self.weights, self.recipe.clip, norm)

        shown = torch.stack([loss, *terms.values()]).detach()
        if self.processes > 1:  # every process must judge alike
            dist.all_reduce(shown)
            shown /= self.processes
        bad = self._judge(shown[0], norm)
        self.optimiser.update(bad)
        self._move_average()
        self.shown = dict(zip(["loss", *terms], shown.unbind(), strict=True)) | {"grad_norm": norm}
        if self.adversary is not None:
            self.shown["discriminator"], _ = self.adversary.learn(x, restored, bad)

    def term_norms(self, step: int) -> dict[str, float]:
        """The gradient's norm of each term, times its weight, on step number `step`; nothing is learnt."""
        self._prepare(step)
        self._refresh()
        terms, _ = self._terms(self.passes, *self.batch())
        norms = {}
        for name, term in terms.items():
            weighted = self._weight(name) * term
            gradients = torch.autograd.grad(weighted, self.copies, retain_graph=True, allow_unused=True)
            used = [gradient.float() for gradient in gradients if gradient is not None]
            norms[f"{name}_norm"] = float(torch.nn.utils.get_total_norm(used))
        return norms

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """This process's crops of the step at hand, with their guide and a drawn latent; as `learn` takes them."""
        recipe, margin = self.recipe, self.margin
        crops = gather(self.pixels, self.picks, recipe.patch, margin) if self.resident else self.crops
        x = crops.permute(0, 3, 1, 2).float() / 255
        if recipe.grain:
            x = add_grain(x, recipe.grain, recipe.grain_levels, self.generator)
        small = recipe.patch // recipe.scale
        shape = (recipe.batch, self.master.config.latent_channels, small, small)
        drawn = torch.randn(shape, generator=self.generator, device=self.device)
        low, high = recipe.temperature
        if low < high:
            drawn *= low + (high - low) * torch.rand(len(drawn), 1, 1, 1, generator=self.generator, device=self.device)
        elif high != 1:
            drawn *= high
        share = recipe.batch // self.processes
        mine = slice(self.process * share, (self.process + 1) * share)
        x, drawn = x[mine], drawn[mine].contiguous(memory_format=torch.channels_last)
        guide = (self.shrink @ x @ self.shrink.T)[..., 2:-2, 2:-2]  # less the margin, which is 2 small pixels
        return x[..., margin:-margin, margin:-margin].contiguous(memory_format=torch.channels_last), guide, drawn

    def averaged(self) -> IRN:
        """A copy of the network that holds the averaged weights: what is validated and exported."""
        model: IRN = deepcopy(self.master)
        model.requires_grad_(False).eval()
        model.name, model.revision = "weights", "0"
        for weight, average in zip(model.parameters(), self.average, strict=True):
            weight.grad = None
            weight.copy_(average)
        return model

    def agree(self, value: float) -> float:
        """The largest of all processes' values: what they decide by must be the same."""
        if self.processes == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return float(shared)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, by name; the tensors themselves, not copies."""
        tensors = {f"guard/{name}": value for name, value in self.guard.items()}
        tensors |= {f"average/{name}": value for name, value in zip(self.names, self.average, strict=True)}
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

    def _prepare(self, step: int) -> None:
        """Bring the step's picks and seed to the device; pictures that do not fit there send their crops."""
        picks = self.sampler.draw(step)
        if self.resident:
            self.picks.copy_(self._staged(picks), non_blocking=True)
        else:
            crops = gather(self.pixels, picks, self.recipe.patch, self.margin)
            self.crops.copy_(self._staged(crops), non_blocking=True)
        self.generator.manual_seed(mixed_seed(self.recipe.seed, "noise", step))

    def _staged(self, tensor: Tensor) -> Tensor:
        """In pinned memory, from which a copy to the GPU runs beside its work."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _compute(self, alone: bool) -> None:
        if alone:
            self._learn_alone(*self.batch())
        else:
            self.learn(*self.batch())

    def _capture(self, alone: bool) -> tuple["torch.cuda.CUDAGraph", dict[str, Tensor]]:
        """Record the step as a CUDA graph; what warming up changed is put back."""
        before = {name: value.clone() for name, value in self.state().items()}
        with torch.cuda.device(self.device):  # streams are made on the current device
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._compute(alone)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph, stream=side):
                self._compute(alone)
        self.restore(before)
        self.generator.manual_seed(self.generator.initial_seed())
        return graph, self.shown

    def _learn_alone(self, x: Tensor, _guide: Tensor, drawn: Tensor) -> None:
        """Take one step of the discriminator only."""
        assert self.adversary is not None
        with torch.no_grad():
            self._refresh()
            _, _, restored = self.passes(x, drawn)
        loss, norm = self.adversary.learn(x, restored, torch.zeros((), device=self.device))
        self._count(~torch.isfinite(loss) | ~torch.isfinite(norm))
        self.shown = {"discriminator": loss, "grad_norm": norm}

    def _refresh(self) -> None:
        """Cast the masters into the working copy: once a step, for both passes."""
        if self.precision == "bf16":
            torch._foreach_copy_([copy.detach() for copy in self.copies], [weight.detach() for weight in self.weights])

    def _terms(
        self, passes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], x: Tensor, guide: Tensor, drawn: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The generator's terms, unweighted, and the restored picture."""
        y, z, restored = passes(x, drawn)
        terms = {
            "reconstruction": losses.reconstruction(x, restored),
            "guide": losses.guide(y, guide, self.recipe.guide_chroma),
        }
        if self.adversary is None:
            terms["distribution"] = losses.distribution(z)
        else:
            terms |= self.adversary.terms(x, restored)
        return terms, restored

    def _weight(self, term: str) -> float:
        weight: float = getattr(self.recipe, term)
        return weight

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._weight(name) * term for name, term in terms.items()]).sum()

    def _judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1 where this step must not reach the weights, else 0; keeps the guard's counts."""
        guard, recipe = self.guard, self.recipe
        armed = guard["seen"] >= recipe.jump_after
        jumped = armed & (guard["seen"] > 0) & (loss > recipe.jump * guard["level"])
        bad = ~torch.isfinite(loss) | ~torch.isfinite(norm) | jumped
        decay = torch.where(guard["seen"] == 0, 0.0, _LEVEL_DECAY)
        level = torch.where(bad, guard["level"], decay * guard["level"] + (1 - decay) * loss)
        guard["level"].copy_(level)
        guard["seen"].add_(~bad)
        self._count(bad)
        return bad.float()

    def _count(self, bad: Tensor) -> None:
        self.guard["in_row"].add_(1).mul_(bad)
        self.guard["skipped"].add_(bad)

    def _move_average(self) -> None:
        difference = torch._foreach_sub([weight.detach() for weight in self.weights], self.average)
        torch._foreach_mul_(difference, self.averaging)
        torch._foreach_add_(self.average, difference)


def _optimiser(recipe: Recipe, weights: Sequence[nn.Parameter], rate: Tensor) -> Adam | Muon:
    betas = (recipe.beta1, recipe.beta2)
    if recipe.optimiser == "muon":
        return Muon(weights, rate, momentum=recipe.momentum, betas=betas, weight_decay=recipe.weight_decay)
    return Adam(weights, rate, betas, recipe.weight_decay)


def fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether training pictures can live on the device: on a GPU they may take half of what is free."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * pixels.numel() <= free
