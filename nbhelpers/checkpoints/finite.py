"""Numbers that fit: what is not finite by name, half precision only where it holds the numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Which tensors hold NaN or infinities, in a line; "" where none does.

    Masks, of 0 and -inf alone, are what they should be.
    """
    floats = {key: t.detach() for key, t in tensors.items() if t.is_floating_point()}
    if not floats:
        return ""
    # One look for all, since each waits for the device.
    fine = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
    told = []
    for (key, tensor), good in zip(floats.items(), fine, strict=True):
        if good or bool(((tensor == 0) | (tensor == -torch.inf)).all()):
            continue
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        counts = [f"{nan} NaN"] * bool(nan) + [f"{infinite} infinite"] * bool(infinite)
        told.append(f"{key} ({', '.join(counts)} of {tensor.numel()})")
    return ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision, but for tensors that it would spoil: these stay float32.

    Half precision ends at 65,504 and loses digits below 6e-5.
    """
    return {key: _half(tensor) for key, tensor in tensors.items()}


def _half(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    half = tensor.half()
    # Rounding changes a number by 2^-11 of itself.
    fits = (half.to(tensor.dtype) - tensor).abs().max() <= tensor.abs().max() * 2**-10
    return half if bool(fits) else tensor.float()
