"""The best small picture that a network's weights can be given: descent on its pixels, through the decoder.

The network makes a small picture in one go. What its rounding to 8 bits and the latent that is dropped cost, a slightly
different one keeps: it is found by descent on the small picture itself. Rounded before each look at it, with the
gradient straight through, every iterate is a small picture that could be written, restored as `upscale` will restore
it::

    small -> rounded, with the latent that upscale draws for it -> decoder -> restored -> squared error
      ^                                                                                        |
      +--- Adam, half a level at a time <--- gradient, walked down the decoder <---------------+

The best of them is kept that is still an ordinary picture (`Rails`); where none is better, what there was.
Adam: Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015); its momentum as in Dozat, "Incorporating
Nesterov Momentum into Adam" (2016).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from irn_cli.artifact import find_artifact
from irn_cli.colour import ciede2000, colour_difference, lab
from irn_cli.metrics import WINDOW, Psnr, luma, ssim
from irn_cli.picture import Pixels, Refinement

_BETAS = 0.8, 0.95  # of Adam: how much of the last iterations' gradients is kept, and of their squares
_PATCH = 16.0  # levels that the mean of an 8x8 patch may be off bicubic, or as much as it was before
_SSIM_LOSS = 0.004  # of luma, against bicubic
_COLOUR_GAIN = 0.3  # of the 95th percentile of CIEDE2000, against bicubic
_BAND = 64  # rows at a time


class Rails:
    """What keeps a refined small picture an ordinary one: it must stay about as near to bicubic as it was.

    No 8x8 patch further off than before or than 16 levels, SSIM less by at most 0.004, and the 95th percentile of
    CIEDE2000 greater by at most 0.3. The last would end nearly every descent, so each pixel is held to it.

    Args:
        small: (h, w, 3), before it is refined.
        reference: (h, w, 3), the bicubic one.
    """

    def __init__(self, small: Pixels, reference: Pixels) -> None:
        self._small, self._reference = small, reference
        self._patch, self._ssim, self._colour = self._measure(small)

    def admit(self, small: Pixels) -> bool:
        """Whether a refined picture is within the rails."""
        patch, similarity, colour = self._measure(small)
        return (
            patch <= max(self._patch, _PATCH)
            and similarity >= self._ssim - _SSIM_LOSS
            and colour <= self._colour + _COLOUR_GAIN
        )

    def hold(self, levels: Tensor) -> None:
        """Take pixels (h, w, 3), not rounded, back towards what they were where their colour goes too far, in place.

        A pixel may come as far from bicubic as 95 % of them may. If it was further it may go on by 1, just noticeable.
        """
        for top in range(0, len(levels), _BAND):
            rows = slice(top, top + _BAND)
            reference, start = lab(self._reference[rows]), torch.from_numpy(self._small[rows])
            was, allowed = ciede2000(reference, lab(self._small[rows])), self._colour + _COLOUR_GAIN
            most = np.where(was > allowed, was + 1, allowed)
            for share in (0.5, 0.5, 0.0):  # half the way, a quarter, none of it
                too_far = torch.from_numpy(ciede2000(reference, lab(rounded(levels[rows]))) > most)
                back = start + share * (levels[rows] - start)
                levels[rows] = torch.where(too_far[..., None], back, levels[rows])

    def _measure(self, small: Pixels) -> tuple[float, float, float]:
        patch = find_artifact(small, self._reference.astype(np.float32)).deviation
        similarity = ssim(small, self._reference, of=luma) if min(small.shape[:2]) >= WINDOW else 1.0
        return patch, similarity, colour_difference(self._reference, small).percentile_95


def find_better(
    small: Pixels,
    original: Pixels,
    iterations: int,
    rails: Rails,
    *,
    restore: Callable[[Pixels, int], tuple[Tensor, Pixels]],
    pull_back: Callable[[Tensor], Tensor],
    step: float = 0.5,
    told: Callable[[Refinement], None] | None = None,
) -> tuple[Pixels, Refinement]:
    """Find a small picture that is restored better.

    Better is what is nearer to the original over all samples with the latent that `upscale` draws by default, and also
    in the mean of that and another draw: a lucky draw is no gain.

    Args:
        small: (h, w, 3), as the network made it.
        original: (H, W, 3).
        iterations: how often to change it; each is about four ways through the network.
        rails: what it must keep to.
        restore: from a small picture and the number of a draw, 0 by default, to the decoder's (s h, s w, 3) map, and
            the picture that `upscale` makes of it.
        pull_back: from that map, which it consumes, to the gradient (h, w, 3) of the squared error, of any scale.
        step: levels that a sample moves at first; halved whenever the last change has made things worse.
        told: called with what has been reached, before the first iteration and after each.

    Returns:
        The best small picture, which is `small` where none was better, and what it came to.
    """

    def judge(picture: Pixels, sample: int = 0) -> tuple[Tensor, Psnr]:
        x, restored = restore(picture, sample)
        return x, Psnr.of(original, restored)

    descent = _Descent(small, step)
    x, before = judge(small)
    best, after, found = small, before, before
    for iteration in range(iterations):
        if told:
            told(Refinement(iteration, before, after))
        gradient = pull_back(x)
        del x  # as large as the picture in float32, and the next is made in its place
        descent.move(gradient)
        rails.hold(descent.levels)
        tried, last = rounded(descent.levels), found
        x, found = judge(tried)
        if found.rgb < last.rgb:
            descent.step /= 2
        if found.rgb > after.rgb and rails.admit(tried):
            best, after = tried, found
    del x
    if best is not small:
        other_before = judge(small, 1)[1]
        other = judge(best, 1)[1]
        if _error(after) + _error(other) >= _error(before) + _error(other_before):
            best, after = small, before
    refinement = Refinement(iterations, before, after)
    if told:
        told(refinement)
    return best, refinement


def residual(x: Tensor, original: Pixels, corner: tuple[int, int], *, grey: bool = False) -> Tensor:
    """The gradient of half the squared error of a decoder's map, clamped to [0, 1].

    Args:
        x: (H', W', 3) float32, on any device.
        original: (H, W, 3) levels, as it lies in the map.
        corner: the row and column of the map at which the picture begins.
        grey: whether `upscale` takes the mean of the channels.

    Returns:
        (H', W', 3), zero outside the picture, on the same device.
    """
    height, width = original.shape[:2]
    gradient = torch.zeros_like(x)
    inside = slice(corner[0], corner[0] + height), slice(corner[1], corner[1] + width)
    picture, result = x[inside], gradient[inside]
    for top in range(0, height, _BAND):
        rows = slice(top, top + _BAND)
        band = picture[rows]
        if grey:
            band = band.mean(2, keepdim=True).expand_as(band)
        error = band.clamp(0, 1) - torch.from_numpy(np.ascontiguousarray(original[rows])).to(x.device) / 255
        result[rows] = error * ((band >= 0) & (band <= 1))
    return gradient


def rounded(levels: Tensor) -> Pixels:
    """Levels as the nearest that 8 bits have."""
    pixels: Pixels = levels.round().clamp_(0, 255).to(torch.uint8).numpy()
    return pixels


def _error(found: Psnr) -> float:
    """The mean squared error, of samples from 0 to 1."""
    return float(10 ** (-found.rgb / 10))


class _Descent:
    """Adam with Nesterov's momentum on the samples of a small picture.

    Each moves by its gradient, measured by how large it usually is there and how large it usually is anywhere: by the
    former alone, samples that hardly matter would move as far as all others, and leave the rails for nothing.
    """

    def __init__(self, small: Pixels, step: float) -> None:
        self.levels = torch.from_numpy(small).float()
        self.step = step  # levels that a sample of the usual gradient moves, if that never changes
        self._moments = torch.zeros_like(self.levels), torch.zeros_like(self.levels)
        self._count = 0

    def move(self, gradient: Tensor) -> None:
        """Move against a gradient (h, w, 3), of any scale and on any device."""
        self._count += 1
        gradient, (kept, kept_square) = gradient.cpu(), _BETAS
        mean, square = self._moments
        mean.lerp_(gradient, 1 - kept)
        square.lerp_(gradient.square(), 1 - kept_square)
        ahead = mean * (kept / (1 - kept ** (self._count + 1)))
        ahead.add_(gradient, alpha=(1 - kept) / (1 - kept**self._count))
        size = square.div(1 - kept_square**self._count)
        usual = size.mean().sqrt()
        size.sqrt_().add_(usual).clamp_min_(1e-30)
        self.levels.addcdiv_(ahead, size, value=-2 * self.step)
