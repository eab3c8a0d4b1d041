"""Draw docs/photographs64.png: random photographs inverted by the two 64-pixel networks."""

import functools
from pathlib import Path

import nbhelpers as nb


def main() -> None:
    images, _ = nb.load_images(
        "photographs", size=64, indices=nb.random_indices("photographs", 8, seed=0)
    )
    rows = {"photograph": images}
    for label, name in {"robust": "tiny-l2-2.0", "standard": "tiny-standard"}.items():
        f = functools.partial(nb.load_model(name, device="cpu").representation, positions=True)
        found = nb.minimize(
            f,
            nb.match(f(images)),
            nb.noise(len(images), size=64),
            steps=100,
            solver=nb.Solver(step_size=0.8),
        )
        rows[label] = found.images
        print(
            f"{label}: SSIM {nb.ssim(found.images, images).mean():.2f}, PSNR "
            f"{nb.psnr(found.images, images).mean():.1f}"
        )
    picture = nb.image_grid(rows, cell=128)
    (Path(__file__).parents[1] / "docs" / "photographs64.png").write_bytes(picture._repr_png_())
