"""Networks that differ only in their training radius ε."""

from pathlib import Path

import torch

from nbhelpers import files
from nbhelpers.checkpoints.entries import Entry, manifest
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model


def series(name: str, *, device: str | torch.device = "auto") -> dict[str, Model]:
    """{ε: network}, rising, for networks that differ from a named one only in training radius ε.

    Includes the manifest's networks whose files are present, without downloads; for a name that
    the manifest lacks, only that network.

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
        for one in [*known.values(), known[name]]  # the named one replaces others of its ε
        if kind(one) == kind(known[name])
        and one.training.get("norm") in ("none", "l2")
        and here(one)
    }
    return {f"{eps:g}": load_model(alike[eps], device=device) for eps in sorted(alike)}
