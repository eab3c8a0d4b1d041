"""Image distortions of given strength or L2 norm; rank correlation; bootstrap intervals."""

import io
import warnings
from collections.abc import Callable

import numpy
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional

from nbhelpers.types import Images, PerImage, check_images, seeded, whole

DISTORTIONS = ("shift", "blur", "noise", "contrast", "hue", "occlusion", "JPEG")
TRIED = 24  # strengths that `distort_to` tries


def distort(images: Images, kind: str, strength: float, *, seed: int = 0) -> Images:
    """Distorted images, (n, 3, h, w), in [0, 1], on the images' device.

    Args:
        images: (n, 3, h, w), pixels in [0, 1].
        kind: one of `DISTORTIONS`. At strength 1: shift by 1/4 of the width, Gaussian blur of σ 1/8
            of the side, noise of σ 0.3, contrast × 0.1, opposite hue, a grey square of 60 % of the
            sides, JPEG quality 1.
        strength: 0 (JPEG: quality 95) to 1.
        seed: random generator, of noise and the square's position.

    Raises:
        ValueError: unknown kind, or a strength outside [0, 1].
    """
    check_images(images)
    if kind not in DISTORTIONS:
        raise ValueError(f"kind: got {kind!r}, wanted one of {', '.join(DISTORTIONS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: got {strength}, wanted 0 to 1")
    return _WAYS[kind](images, float(strength), seed).clamp(0, 1)


def distort_to(images: Images, kind: str, length: float, *, seed: int = 0) -> Images:
    """Images distorted to a given L2 norm of the change.

    Takes the weakest distortion of at least that norm, and blends it with the image to the exact
    norm; without one (plain images) takes the largest change.

    Args:
        images, kind, seed: as in `distort`.
        length: L2 over a whole image, pixel units.
    """
    if not length > 0:
        raise ValueError(f"length: got {length}, wanted a positive length in pixel units")
    tried = torch.stack([distort(images, kind, (k + 1) / TRIED, seed=seed) for k in range(TRIED)])
    lengths = (tried - images).flatten(2).norm(dim=2)  # (TRIED, n)
    enough = lengths >= length
    first = torch.where(enough.any(0), enough.int().argmax(0), lengths.argmax(0))
    each = torch.arange(len(images), device=images.device)
    share = (length / lengths[first, each].clamp_min(1e-12)).clamp(max=1)
    return torch.lerp(images, tried[first, each], share[:, None, None, None])


def rank_correlation(first: Tensor, second: Tensor) -> PerImage:
    """Spearman's ρ of each row pair, (n,), by SciPy on the CPU; 0 for constant rows.

    Args:
        first, second: (n, m), finite; one may be (1, m) or (m,).
    """
    from scipy.stats import ConstantInputWarning, spearmanr  # late: not needed in training

    rows = [
        table.detach().cpu().numpy()
        for table in torch.broadcast_tensors(*map(torch.atleast_2d, (first, second)))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        found = [spearmanr(one, other).statistic for one, other in zip(*rows, strict=True)]
    return torch.tensor(found, dtype=torch.float32).nan_to_num(0)


def interval(values: PerImage, *, seed: int = 0, draws: int = 1000) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval, (mean, low, high).

    Args:
        values: (n,), one number per image.
        seed: random generator.
        draws: bootstrap samples.

    Raises:
        ValueError: empty, or not finite.

    Source: Efron, The Annals of Statistics 7(1), 1979.
    """
    values, draws = values.detach().double().cpu(), whole(draws, "draws", least=1)
    if not len(values) or not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).sum())
        raise ValueError(f"values: got {len(values)}, {bad} of them not finite; wanted numbers")
    again = torch.randint(len(values), (draws, len(values)), generator=seeded(seed))
    low, high = (
        values[again].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    )
    return values.mean().item(), low, high


def _shift(images: Images, strength: float, _: int) -> Images:
    turn = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    turn[:, 0, 2] = -strength / 2  # coordinates from -1 to 1
    grid = functional.affine_grid(turn, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _blur(images: Images, strength: float, _: int) -> Images:
    from torchvision.transforms.functional import gaussian_blur  # late: not needed in training

    width = max(strength * min(images.shape[-2:]) / 8, 1e-3)
    reach = min(int(3 * width + 0.5) + 1, min(images.shape[-2:]) - 1)
    return gaussian_blur(images, 2 * reach + 1, width)


def _noise(images: Images, strength: float, seed: int) -> Images:
    return images + 0.3 * strength * torch.randn(images.shape, generator=seeded(seed)).to(images)


def _contrast(images: Images, strength: float, _: int) -> Images:
    return torch.lerp(
        images, images.mean((1, 2, 3), keepdim=True).expand_as(images), 0.9 * strength
    )


def _hue(images: Images, strength: float, _: int) -> Images:
    from torchvision.transforms.functional import adjust_hue  # late: not needed in training

    return adjust_hue(images, 0.5 * strength)


def _cover(images: Images, strength: float, seed: int) -> Images:
    height, width = images.shape[-2:]
    high, wide = (max(1, round(0.6 * strength * side)) for side in (height, width))
    where, covered = torch.rand(len(images), 2, generator=seeded(seed)), images.clone()
    for image, (down, right) in zip(covered, where.tolist(), strict=True):
        top, left = int(down * (height - high + 1)), int(right * (width - wide + 1))
        image[:, top : top + high, left : left + wide] = 0.5
    return torch.lerp(images, covered, float(strength > 0))


def _jpeg(images: Images, strength: float, _: int) -> Images:
    done = []
    for image in (images.detach().cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        PIL.Image.fromarray(image).save(buffer, "JPEG", quality=round(95 - 94 * strength))
        done.append(torch.from_numpy(numpy.array(PIL.Image.open(buffer))).permute(2, 0, 1) / 255)
    return torch.stack(done).to(images)


_WAYS: dict[str, Callable[[Images, float, int], Images]] = {
    "shift": _shift,
    "blur": _blur,
    "noise": _noise,
    "contrast": _contrast,
    "hue": _hue,
    "occlusion": _cover,
    "JPEG": _jpeg,
}
