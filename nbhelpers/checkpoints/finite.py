"""Non-finite weights by name, and half precision where it loses nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """One line on tensors with NaN or infinities, "" if none; masks of 0 and -inf are valid."""
    floats = {key: t.detach() for key, t in tensors.items() if t.is_floating_point()}
    if not floats:
        return ""
    # One read for all, as each synchronises the device.
    fine = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
    bad = []
    for (key, tensor), good in zip(floats.items(), fine, strict=True):
        if good or bool(((tensor == 0) | (tensor == -torch.inf)).all()):
            continue
        nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        counts = [f"{nan} NaN"] * bool(nan) + [f"{infinite} infinite"] * bool(infinite)
        bad.append(f"{key} ({', '.join(counts)} of {tensor.numel()})")
    return ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision, or in float32 if that overflows (65,504) or underflows (6e-5)."""
    return {key: _half(tensor) for key, tensor in tensors.items()}


def _half(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    half = tensor.half()
    # Rounding error is at most 2^-11 relative.
    fits = (half.to(tensor.dtype) - tensor).abs().max() <= tensor.abs().max() * 2**-10
    return half if bool(fits) else tensor.float()
