"""docs/speed.png, the README's picture, out of what `step` and `distance` wrote."""

from benchmarks import distance, measure, step


def main() -> None:
    steps, distances = measure.load("step"), measure.load(f"distance-{distance.ROBUST}")
    if not (steps and distances):
        print("no picture: run step and distance first")
        return
    figure, (left, right) = measure.axes(2)
    step.bars(left, steps["rows"])
    distance.curves(right, distances["rows"])
    measure.draw(figure, measure.ROOT / "docs" / "speed.png")
