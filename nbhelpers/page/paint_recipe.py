"""The canvas as data for the exported page, whose engine then paints without Python."""

from typing import Any

from nbhelpers.widgets.canvas import Paint
from nbhelpers.widgets.live import Demo
from nbhelpers.widgets.parts import Models
from nbhelpers.widgets.recipes import Recipe
from nbhelpers.widgets.settings import PAINTING, PERCENTILES
from nbhelpers.widgets.strokes import read_note


def for_page(demo: Demo, models: Models) -> Demo:
    """The demo of `paint` with a recipe: per component what the set has of it at each position, in
    half precision.

    Args:
        demo: as `paint` made it, with the stroke that it opens on.
        models: the networks that it was made of.

    Raises:
        ValueError: not a demo of `paint`.
    """
    live = demo.live
    if not isinstance(live, Paint):
        raise ValueError(f"demo: {demo.title} is no canvas; give what `paint` returns")
    order, note = list(models), read_note(live.export(), "painted.png")
    live.opens = False  # the page paints notes, and reads none
    palette = [
        {
            "network": order.index(entry["label"]),
            "component": entry["component"],
            "maps": maps[:, None],
        }
        for entry, maps in zip(live.palette, live._maps, strict=True)
    ]
    numbers: dict[str, Any] = {"palette": palette, "percentiles": list(PERCENTILES), "note": note}
    numbers["radius"] = note["strokes"][0]["radius"]
    demo.recipe = Recipe("painting", models, PAINTING, live._steps, numbers)
    return demo
