"""Write the README's pictures: python -m tools picture

docs/speed.png, from the results of the benchmarks `step` and `distance`, and a figure of each
notebook.
"""

import base64
import io
import json

import PIL.Image

from benchmarks import distance, measure, step

# notebook → index of the figure, and height of its crop in dots
FIGURES = {
    "0_robust_training": (1, 400),
    "1_brittleness": (0, 581),
    "2_inversion": (0, 421),
    "3_feature_visualization": (0, 520),
    "4_feature_manipulation": (0, 440),
    "5_interpolation": (0, 823),
    "6_misclassification": (0, 430),
    "7_paint_with_features": (0, 581),
    "8_distance": (0, 313),
    "9_layers": (0, 280),
    "10_classes": (1, 421),
}
CLASSES = 484  # height of the crop of the classes' sheet, dots


def main() -> None:
    for name, (index, height) in FIGURES.items():
        cells = json.loads(
            (measure.ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        )["cells"]
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
        drawn = [bundle["image/png"] for bundle in data if "image/png" in bundle]
        with PIL.Image.open(io.BytesIO(base64.b64decode(drawn[index]))) as picture:
            cropped = picture.crop((0, 0, picture.width, min(height, picture.height)))
            cropped.save(measure.ROOT / "docs" / f"{name}.png", optimize=True)
            print(f"wrote docs/{name}.png")
    with PIL.Image.open(
        io.BytesIO(base64.b64decode(drawn[0]))
    ) as sheet:  # notebook 10, the last one
        sheet.crop((0, 0, sheet.width, CLASSES)).save(measure.ROOT / "docs" / "classes64.png")
        print("wrote docs/classes64.png")
    steps, distances = measure.load("step"), measure.load(f"distance-{distance.ROBUST}")
    if not (steps and distances):
        print("no picture of speed: run step and distance first")
        return
    figure, (left, right) = measure.axes(2)
    step.bars(left, steps["rows"])
    distance.curves(right, distances["rows"])
    measure.draw(figure, measure.ROOT / "docs" / "speed.png")
