"""The model card's table and curve, from the manifest: python -m tools series"""

from pathlib import Path

import torch

import nbhelpers as nb
from nbhelpers import checkpoints


def main() -> None:
    names = [model.name for model in nb.widgets.series("cifar10-l2-0.5").values()]
    entries = {name: checkpoints.entry(name) for name in names}
    radii = list(entries[names[0]].accuracy["l2"])
    print(
        f"| network | clean | {' | '.join(f'PGD {radius}' for radius in radii)} | AutoAttack at "
        "its ε | move at 0.5 |"
    )
    print(f"|---{'|---' * (len(radii) + 3)}|")
    series = {}
    for name, entry in entries.items():
        found, confirmed = entry.accuracy, entry.accuracy.get("autoattack")
        series[name.removeprefix("cifar10-")] = torch.tensor(
            [found["clean"], *(found["l2"][radius] for radius in radii)]
        )
        cells = [f"{found['clean']:.1f} %", *(f"{found['l2'][radius]:.1f} %" for radius in radii)]
        cells.append(f"{confirmed['accuracy']:.1f} % at {confirmed['eps']:g}" if confirmed else "–")
        cells.append(f"{found['sensitivity']['0.5']:.2f}")
        print(f"| `{name}` | {' | '.join(cells)} |")
    figure = nb.curves(
        [0, *map(float, radii)],
        series,
        xlabel="radius of the attack, L2, pixel units",
        ylabel="accuracy (%)",
    )
    path = Path(__file__).parents[1] / "docs" / "series.png"
    path.write_bytes(figure._repr_png_())
    print(f"wrote docs/{path.name}")
