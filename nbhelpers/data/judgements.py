"""Human similarity judgements: KADID-10k, TID2013 and BAPPS, from the user's own copies."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from nbhelpers.data.distortions import rank_correlation
from nbhelpers.data.images import load_images
from nbhelpers.representation import distance
from nbhelpers.types import Features, Images, PerImage, Size, seeded

Distance = Callable[[Images, Images], PerImage]


@dataclass(frozen=True)
class Judgements:
    """Original and distorted images with human opinions."""

    name: str  # "KADID-10k", "TID2013" or "BAPPS"
    references: list[Path]  # originals
    distorted: list[Path]  # one per original; BAPPS: the first of two
    others: list[Path]  # BAPPS: the second; else empty
    opinions: Tensor  # (n,): mean opinion score; BAPPS: share of votes for the second

    def __len__(self) -> int:
        return len(self.references)

    def draw(self, n: int, *, seed: int = 0) -> "Judgements":
        """A random sample of at most `n`."""
        picked = torch.randperm(len(self), generator=seeded(seed))[:n].tolist()
        lists = (self.references, self.distorted, self.others)
        first, second, third = ([paths[i] for i in picked if paths] for paths in lists)
        return Judgements(self.name, first, second, third, self.opinions[picked])

    def agreement(self, measure: Distance, *, size: Size, batch_size: int = 64) -> PerImage | float:
        """Agreement of an image distance with the human judgements.

        Args:
            measure: two batches (n, 3, h, w) → distances, (n,).
            size: pixels, images are resized and cropped to it.
            batch_size: images per pass.

        Returns:
            BAPPS: 2AFC score per triplet, (n,), the share of votes for the measure's choice, ½ for
            a tie. Else Spearman's ρ of minus the distance and the opinion.
        """
        first = self._distances(measure, self.distorted, size, batch_size)
        if not self.others:
            return rank_correlation(-first, self.opinions)[0].item()
        second = self._distances(measure, self.others, size, batch_size)
        chosen = torch.where(second == first, 0.5, (second < first).float())
        return chosen * self.opinions + (1 - chosen) * (1 - self.opinions)

    def _distances(
        self, measure: Distance, paths: Sequence[Path], size: Size, batch_size: int
    ) -> PerImage:
        parts = []
        for k in range(0, len(paths), batch_size):
            pair = (_load(some[k : k + batch_size], size) for some in (self.references, paths))
            parts.append(measure(*pair).detach().cpu())
        return torch.cat(parts)


def between(f: Callable[[Images], Features], images: Images, others: Images) -> PerImage:
    """Distance of two batches' representations, relative to the first's norm, (n,).

    Args:
        f: images → representation; bind it with `functools.partial` for `agreement`.
        images, others: (n, 3, h, w), pixels in [0, 1], on the network's device.
    """
    with torch.no_grad():
        return distance(f(others), f(images))


def load_judgements(folder: str | Path) -> Judgements:
    """Read KADID-10k, TID2013 or BAPPS (2AFC) in the authors' layout.

    Args:
        folder: contains `dmos.csv` and `images/`; or `mos_with_names.txt`, `reference_images/` and
            `distorted_images/`; or folders with `ref/`, `p0/`, `p1/` and `judge/`.

    Raises:
        ValueError: another layout, or a listed image is missing.

    Source: Lin et al., QoMEX 2019; Ponomarenko et al., Signal Processing: Image Communication 30,
        2015; Zhang et al., arXiv:1801.03924.
    """
    folder = Path(folder).expanduser()
    if (folder / "dmos.csv").is_file():
        with open(folder / "dmos.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = [(row["ref_img"], row["dist_img"], float(row["dmos"])) for row in rows]
        return _rated("KADID-10k", names, folder / "images", folder / "images")
    if (folder / "mos_with_names.txt").is_file():
        lines = (folder / "mos_with_names.txt").read_text(encoding="utf-8").split("\n")
        words = [line.split() for line in lines if line.strip()]
        names = [(f"{name.split('_')[0]}.bmp", name, float(score)) for score, name in words]
        return _rated("TID2013", names, folder / "reference_images", folder / "distorted_images")
    judged = sorted(folder.glob("**/judge/*.npy"))
    if judged:
        first, second, third = (
            [path.parent.parent / part / f"{path.stem}.png" for path in judged]
            for part in ("ref", "p0", "p1")
        )
        if missing := [path for path in (*first, *second, *third) if not path.is_file()]:
            raise ValueError(f"folder: {folder} lacks {missing[0].relative_to(folder)}")
        shares = [float(numpy.load(path, allow_pickle=False).ravel()[0]) for path in judged]
        return Judgements("BAPPS", first, second, third, torch.tensor(shares))
    raise ValueError(
        f"folder: {folder} is none of KADID-10k, TID2013 and BAPPS; see load_judgements"
    )


def _rated(
    name: str, rows: Sequence[tuple[str, str, float]], originals: Path, changed: Path
) -> Judgements:
    found = [
        {path.name.lower(): path for path in folder.glob("*")} for folder in (originals, changed)
    ]
    try:  # TID2013 mixes upper and lower case
        first = [found[0][row[0].lower()] for row in rows]
        second = [found[1][row[1].lower()] for row in rows]
    except KeyError as error:
        raise ValueError(f"folder: {originals.parent} lacks the picture {error.args[0]}") from None
    return Judgements(name, first, second, [], torch.tensor([row[2] for row in rows]))


def _load(paths: Sequence[Path], size: Size) -> Images:
    return torch.cat([load_images(path, size=size)[0] for path in paths])
