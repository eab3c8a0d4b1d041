"""SSIM and PSNR of image pairs."""

import numpy
import torch

from nbhelpers.types import Images, PerImage


def ssim(images: Images, others: Images) -> PerImage:
    """Structural similarity of image pairs, (n,), 1 if equal, by scikit-image.

    Source: Wang et al., IEEE TIP 13(4), 2004.
    """
    from skimage.metrics import structural_similarity  # late: not needed in training

    if images.shape != others.shape:
        raise ValueError(
            f"ssim: got shapes {tuple(images.shape)} and {tuple(others.shape)}, wanted the same"
        )
    pairs = zip(images.detach().cpu().numpy(), others.detach().cpu().numpy(), strict=True)
    return torch.tensor(
        numpy.array(
            [structural_similarity(a, b, channel_axis=0, data_range=1) for a, b in pairs],
            dtype=numpy.float32,
        )
    )


def psnr(images: Images, others: Images) -> PerImage:
    """Peak signal-to-noise ratio of image pairs, (n,), dB; 20 if pixels differ by 0.1."""
    error = (images - others.to(images.device)).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()
