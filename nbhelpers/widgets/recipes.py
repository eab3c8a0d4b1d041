"""What a pick of each demo means, as data that the exported page can follow without Python
(`recipes.js`).
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nbhelpers.networks.model import Model
from nbhelpers.types import Images
from nbhelpers.widgets.settings import Settings


@dataclass(frozen=True)
class Recipe:
    """A demo's plan in numbers: `recipes.js` has a function of the same kind that does what the
    Python plan does.
    """

    kind: str
    models: Mapping[str, Model]  # in the order of the columns or rows
    settings: Settings
    steps: int
    # JSON with tensors of images, (n, c, h, w), in it; what takes a while to compute as a function
    # of nothing.
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def state(self, name_of: Callable[[Model], str]) -> dict[str, Any]:
        """The recipe as JSON.

        Args:
            name_of: the name under which the page holds a network.
        """
        networks = [[label, name_of(model)] for label, model in self.models.items()]
        own = {"size": self.settings.step_size, "full": self.settings.steps, "steps": self.steps}
        return {"kind": self.kind, "networks": networks, **own, **_plain(self.numbers)}


def chosen_of(
    choose: Callable[[int], Mapping[str, tuple[int, str]]],
    picks: int,
    ceilings: Callable | None = None,
) -> list[list[list[Any]]]:
    """For each pick and network: the component, how to call it, and where asked for its
    ceilings.
    """
    rows = []
    for index in range(picks):
        found = choose(index).items()
        rows.append(
            [
                [i, text, *([ceilings(label, i).tolist()] if ceilings else [])]
                for label, (i, text) in found
            ]
        )
    return rows


def controls_of(models: Sequence[Model], seed: int) -> list[int]:
    """The random component of each network, drawn as the demo draws it."""
    return [
        int(torch.randint(model.components, (1,), generator=torch.Generator().manual_seed(seed)))
        for model in models
    ]


def _plain(value: Any) -> Any:
    """A value with its tensors packed, at any depth."""
    value = value() if callable(value) else value
    if isinstance(value, Tensor):
        return _packed(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _packed(images: Images) -> dict[str, Any]:
    """Images as the engine wants them, (n, h, w, c), in half precision: a sixteenth of what a
    screen can show.
    """
    values = images.detach().cpu().permute(0, 2, 3, 1).contiguous()
    return {
        "shape": list(values.shape),
        "halves": base64.b64encode(values.half().numpy().astype("<f2").tobytes()).decode(),
    }
