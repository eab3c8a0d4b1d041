"""How each experiment is run, in its notebook and in its demo, and the sentence that says what
one sees.
"""

from dataclasses import dataclass

from nbhelpers.optimize import first_step, relative_diagonal
from nbhelpers.types import Images


@dataclass(frozen=True)
class Settings:
    """An experiment's numbers. A test holds its notebook's parameters to them; lengths are for
    32-pixel images.
    """

    steps: int  # gradient steps in the notebook
    step_size: float  # L2 length of the first step, pixel units
    radius: float | None = None  # L2 radius around the start, pixel units; None for no ball
    live: int = 100  # gradient steps in the demo, for small images
    about: str = ""

    def steps_for(self, images: Images, steps: int | None) -> int:
        """The steps that were given, or the demo's own: fewer for large images, while somebody
        waits.
        """
        return (
            steps
            if steps is not None
            else self.live
            if max(images.shape[-2:]) <= LARGE
            else min(self.live, FEWER)
        )

    def step(self, steps: int, images: Images) -> float:
        """Length of the first step of a run of so many steps: fewer steps are longer, as in
        `descend`.
        """
        return first_step(self.step_size, self.steps, steps=steps, shape=images.shape)

    def ball(self, images: Images, radius: float | None) -> float | None:
        """The radius that was given, or the experiment's own for images of this size."""
        return (
            radius
            if radius is not None or self.radius is None
            else self.radius * relative_diagonal(images.shape)
        )


BRITTLENESS = Settings(
    steps=60,
    step_size=0.2,
    radius=1.0,
    about="Gradient descent searches for a small change of the source that brings its "
    "representation near the target's. It fools the standard network; the robust network "
    "barely reacts.",
)
INVERSION = Settings(
    steps=120,
    step_size=0.5,
    about="Only the representation of the image is kept. Starting from noise, gradient descent "
    "searches for an image with the same representation.",
)
SERIES = Settings(
    steps=200,
    step_size=0.2,
    about="The same inversion in networks trained against perturbations of radius ε. The "
    "picture comes with robustness.",
)
VISUALIZATION = Settings(
    steps=60,
    step_size=0.2,
    about="Gradient ascent raises one component, from noise and (last column) from an image. "
    "Below: the images of the set that activate it most and least. The other network's "
    "component is the one most correlated over the set (r).",
)
MANIPULATION = Settings(
    steps=100,
    step_size=0.1,
    about="Gradient ascent raises one component of a source image, to a percentile of its "
    "activation over the set: 99 is as strong as in the strongest of a hundred images.",
)
INTERPOLATION = Settings(
    steps=100,
    step_size=0.2,
    about="Top row: mixed pixels, a double exposure. Below: images whose representation is the "
    "mix of the two representations.",
)
MISCLASSIFICATION = Settings(
    steps=60,
    step_size=0.1,
    radius=5.7,
    live=60,
    about="Both networks misclassify this image. Gradient ascent raises a component that "
    "contributes most to the wrong class, inside an L2 ball. Where it grows hints at "
    "what the network used. Last: a random component, the control.",
)
PAINTING = Settings(
    steps=30,
    step_size=0.8,
    radius=5.7,
    live=30,
    about="Choose a component and paint. Gradient ascent raises that component under the "
    "brush; all other pixels stay fixed.",
)
FILLING = Settings(
    steps=30,
    step_size=0.8,
    live=60,
    about="Brush a hole over the picture. Gradient descent changes the pixels in the hole until "
    "the representation outside it matches the original's. Each position there also sees a part of "
    "the hole.",
)
DISTANCE = Settings(
    steps=30,
    step_size=0.4,
    radius=2.0,
    live=30,
    about="Perturbations of equal L2 norm, sorted by each network's distance. A perturbation "
    "optimised against the standard network is hardly visible, and farther for it than "
    "another picture.",
)
LAYERS = Settings(
    steps=200,
    step_size=0.2,
    about="Only the activations of one layer are kept. From noise, gradient descent searches for "
    "an image with the same activations. Move the slider to a deeper layer: which network still "
    "keeps the picture?",
)
CLASSES = Settings(
    steps=80,
    step_size=0.2,
    live=80,
    about="What does a classifier think a class looks like? From faint noise, gradient ascent "
    "raises the class's logit, nothing else. The network that took no part names the drawing.",
)

PERCENTILES = (50, 75, 90, 99, 99.9)  # amounts of a raised component, over the set
SHOWN = 16  # misclassified images to pick from
STARTS = 16  # of which the mean solution is shown
SMALL = 32  # pixels a side; above, so many starts take half a minute
LARGE = 64  # pixels a side; above, a full run takes too long while somebody waits
FEWER = 25  # gradient steps above that
