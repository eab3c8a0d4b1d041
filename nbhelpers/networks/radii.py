"""Networks that differ in the radius of their training alone."""

from pathlib import Path

import torch

from nbhelpers import files
from nbhelpers.checkpoints.entries import Entry, manifest
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model


def series(name: str, *, device: str | torch.device = "auto") -> dict[str, Model]:
    """Networks that differ from a named one in the L2 radius ε of their training alone, by ε in
    rising order.

    Of the manifest those whose files are here; nothing is downloaded. A network it does not know
    stands alone.

    Args:
        name, device: as in `load_model`.
    """
    known = manifest()
    if name not in known:
        return {Path(name).stem: load_model(name, device=device)}

    def kind(one: Entry) -> tuple[object, ...]:
        return one.architecture, dict(one.arguments), one.dataset

    def here(one: Entry) -> bool:
        cached = files.cache_folder() / f"{one.name}.safetensors"
        return (files.CHECKPOINTS / one.file).exists() or cached.exists()

    alike = {
        float(one.training["eps"]): one.name
        for one in [*known.values(), known[name]]  # of two with one ε, the one asked for
        if kind(one) == kind(known[name])
        and one.training.get("norm") in ("none", "l2")
        and here(one)
    }
    return {f"{eps:g}": load_model(alike[eps], device=device) for eps in sorted(alike)}
