"""Settings of each experiment, in its notebook and its demo, and the demos' explanations."""

from dataclasses import dataclass

from nbhelpers.optimize import first_step, relative_diagonal
from nbhelpers.types import Images


@dataclass(frozen=True)
class Settings:
    """An experiment's settings, equal to its notebook's parameters; lengths for 32 pixels."""

    steps: int  # gradient steps in the notebook
    step_size: float  # L2 length of the first step, pixel units
    radius: float | None = None  # L2 radius around the start, pixel units; None: no ball
    live: int = 100  # gradient steps in the demo, small images
    about: str = ""

    def steps_for(self, images: Images, steps: int | None) -> int:
        """The given steps, or the demo's: fewer for large images."""
        return (
            steps
            if steps is not None
            else self.live
            if max(images.shape[-2:]) <= LARGE
            else min(self.live, FEWER)
        )

    def step(self, steps: int, images: Images) -> float:
        """First step size of a run of `steps`: longer for fewer steps, as in `descend`."""
        return first_step(self.step_size, self.steps, steps=steps, shape=images.shape)

    def ball(self, images: Images, radius: float | None) -> float | None:
        """The given radius, or the experiment's, scaled to the images' size."""
        return (
            radius
            if radius is not None or self.radius is None
            else self.radius * relative_diagonal(images.shape)
        )


BRITTLENESS = Settings(
    steps=40,
    step_size=0.2,
    radius=1.0,
    about="Pick a source and a target: gradient descent perturbs the source, in a small L2 ball, "
    "towards the target's representation. Look at the two distances: the standard network is "
    "fooled, the robust one barely reacts.",
)
INVERSION = Settings(
    steps=100,
    step_size=0.8,
    about="Pick an image: only its representation is kept, and gradient descent searches, from "
    "noise, for an image with the same representation. Look at the results: which network's "
    "representation shows the original?",
)
SERIES = Settings(
    steps=200,
    step_size=0.2,
    about="Pick an image and move the slider: the same inversion in networks trained against "
    "perturbations of radius ε. Look at how the picture emerges as ε grows.",
)
VISUALIZATION = Settings(
    steps=24,
    step_size=0.5,
    live=40,
    about="Pick a component: gradient ascent raises it, from noise and (last column) from an "
    "image. Compare with the images below, which activate it most and least; the other network's "
    "component is the most correlated one (r).",
)
MANIPULATION = Settings(
    steps=24,
    step_size=0.4,
    live=40,
    about="Pick a source and a component: gradient ascent raises the component to a percentile of "
    "its activations over the set. Move the slider: 99 is as strong as in the strongest of a "
    "hundred images.",
)
INTERPOLATION = Settings(
    steps=30,
    step_size=0.8,
    live=40,
    about="Pick two images and move the slider. Compare the rows: mixed pixels are a double "
    "exposure; the images below match the mix of the two representations.",
)
MISCLASSIFICATION = Settings(
    steps=24,
    step_size=0.4,
    radius=5.7,
    live=40,
    about="Pick an image that both networks misclassify: gradient ascent raises a component that "
    "contributes most to the wrong class, in an L2 ball. Look at where it grows, and at the "
    "control, a random component.",
)
PAINTING = Settings(
    steps=30,
    step_size=0.8,
    radius=5.7,
    live=30,
    about="Choose a component and paint: gradient ascent raises it under the brush, and all other "
    "pixels stay fixed. Look at what appears: does the other network's component paint the same?",
)
FILLING = Settings(
    steps=30,
    step_size=0.8,
    live=60,
    about="Brush a hole over the picture: gradient descent changes its pixels until the "
    "representation outside it matches the original's. Look at what each network fills in; the "
    "positions around also depend on pixels in the hole.",
)
DISTANCE = Settings(
    steps=30,
    step_size=0.4,
    radius=2.0,
    live=30,
    about="Pick an image: its perturbations, all of equal L2 norm, are sorted by each network's "
    "distance. Look at the one optimised against the standard network: hardly visible, yet "
    "farther for it than another picture.",
)
LAYERS = Settings(
    steps=64,
    step_size=1.2,
    about="Pick an image and move the slider: only one layer's activations are kept, and gradient "
    "descent searches, from noise, for an image with the same activations. Look at the deep "
    "layers: which network still keeps the picture?",
)
CLASSES = Settings(
    steps=24,
    step_size=0.6,
    live=40,
    about="Search a class by name: from faint noise, gradient ascent raises the class's logit, "
    "nothing else. Look at what each network draws; the held-out network names the drawing.",
)

PERCENTILES = (50, 75, 90, 99, 99.9)  # amounts of a raised component, over the set
SHOWN = 16  # misclassified images to pick from
STARTS = 16  # inversions in a mean
SMALL = 32  # pixels a side; above, the mean takes half a minute
LARGE = 64  # pixels a side; above, a full run is too slow for a demo
FEWER = 25  # gradient steps above `LARGE`
