"""How alike two pictures are, pixel by pixel and in structure."""

import numpy
import torch

from nbhelpers.types import Images, PerImage


def ssim(images: Images, others: Images) -> PerImage:
    """Structural similarity of each pair of images, (n,), 1 for equal ones, from scikit-image.

    Source: Wang et al., IEEE TIP 13(4), 2004.
    """
    # here: images in which networks are trained lack it
    from skimage.metrics import structural_similarity

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
    """Peak signal-to-noise ratio of each pair of images, (n,), in dB: 20 where pixels are 0.1
    apart.
    """
    error = (images - others.to(images.device)).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()
