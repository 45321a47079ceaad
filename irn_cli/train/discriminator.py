"""Stage 2's other side: the discriminator T of IRN+, and how it learns.

Source: the appendix of Xiao et al., "Invertible Image Rescaling" (2020). The authors' published code has another one.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import Tensor, nn

from irn_cli.train import losses
from irn_cli.train.adam import Adam
from irn_cli.train.recipe import Recipe


class Discriminator(nn.Module):
    """Eight 3x3 convolutions, the second of each pair with stride 2, then two dense layers: (B, 3, P, P) -> (B, 1).

    LeakyReLU(0.2) throughout; batch normalisation, always by the batch at hand, after all convolutions but the first.
    """

    def __init__(self, patch: int) -> None:
        """Make a discriminator of crops with side `patch`."""
        super().__init__()
        convolutions: list[nn.Module] = []
        norms: list[nn.Module] = []
        channels, side = 3, patch
        for k, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
            stride = 1 + k % 2
            convolutions.append(nn.Conv2d(channels, width, 3, stride, padding=1))
            # Running statistics would be state that a bad step could spoil, and nothing would ever read them.
            norms.append(nn.BatchNorm2d(width, track_running_stats=False) if k else nn.Identity())
            channels, side = width, -(-side // stride)
        self.convolutions, self.norms = nn.ModuleList(convolutions), nn.ModuleList(norms)
        self.hidden = nn.Linear(channels * side * side, 100)
        self.logit = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of "this is a real picture" for crops in [0, 1]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.leaky_relu(norm(convolution(x)), 0.2)
        x = functional.leaky_relu(self.hidden(x.flatten(1)), 0.2)
        logits: Tensor = self.logit(x)
        return logits


class Adversary:
    """The discriminator with its optimiser, and the features that pictures are compared by."""

    def __init__(self, recipe: Recipe, device: torch.device, features: losses.VGGFeatures | None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed % 2**63)  # torch.manual_seed would seed every GPU's too
            self.network = Discriminator(recipe.patch).to(device)
        self.features = features.to(device) if features else None
        self.weights = list(self.network.parameters())
        betas = (recipe.discriminator_beta1, recipe.discriminator_beta2)
        self.rate = torch.tensor(recipe.discriminator_lr, device=device)
        self.optimiser = Adam(self.weights, self.rate, betas)

    def terms(self, x: Tensor, restored: Tensor) -> dict[str, Tensor]:
        """The generator's terms of Eq. 11 that this side gives."""
        self.network.requires_grad_(False)  # the generator's gradient passes through; the weights here want none
        terms = {"distribution": losses.deception(self.network(restored))}
        if self.features is not None:
            with torch.no_grad():
                wanted = self.features(x)
            terms["perceptual"] = losses.perceptual(wanted, self.features(restored))
        return terms

    def learn(self, x: Tensor, restored: Tensor, bad: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step of the discriminator, unless it or `bad` (0 or 1) says that something is not finite.

        Under torchrun the processes learn from the mean of their gradients; each normalises by its own share of the
        batch, so that unlike stage 1's, the result is not quite that of one process.

        Returns:
            Its loss and its gradient's norm.
        """
        self.network.requires_grad_(True)
        for weight in self.weights:
            weight.grad = None
        loss = losses.discrimination(self.network(x), self.network(restored.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if dist.is_initialized():
            for tensor in (loss, *gradients):
                dist.all_reduce(tensor)
                tensor /= dist.get_world_size()
        norm = torch.nn.utils.get_total_norm(gradients)
        self.optimiser.update(torch.where(torch.isfinite(loss) & torch.isfinite(norm), bad, 1.0))
        return loss, norm
