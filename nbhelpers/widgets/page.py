"""One HTML file with every demo, computed beforehand: no kernel, no network."""

import base64
import hashlib
import html
import itertools
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from nbhelpers.checkpoints.manifest import manifest
from nbhelpers.data.images import class_names, load_images
from nbhelpers.data.represented import digest
from nbhelpers.files import cache_folder, write_text
from nbhelpers.model import Model
from nbhelpers.networks.load import load_model
from nbhelpers.networks.series import series
from nbhelpers.widgets import demos as blog
from nbhelpers.widgets.image_picker import HERE, ImagePicker, compress
from nbhelpers.widgets.inverting import epsilon_series, inversion
from nbhelpers.widgets.live import Demo, Live


def export_page(
    path: str | os.PathLike[str],
    *,
    models: Mapping[str, Model] | None = None,
    dataset: str = "cifar10-sample",
    demos: Mapping[str, Demo] | None = None,
    work: str | os.PathLike[str] | None = None,
) -> Path:
    """Write demos, precomputed for all of their picks, into one HTML file.

    Results are kept in a work folder by what they depend on, so that a run cut short goes on where it was.

    Args:
        path: of the file.
        models: networks by name; None for the standard and the robust network shipped.
        dataset: name of the images, see `load_images`.
        demos: by heading; None for all seven on `models` and `dataset`.
        work: folder of results; None for one in the cache.

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise ValueError(f"path: cannot write {path} ({error.strerror}); name a file you may write") from error
    if models is None:
        names = {"standard": "cifar10-standard", "robust": "cifar10-l2-0.5"}
        models = {label: load_model(name, device="cpu") for label, name in names.items()}
    folder = Path(work) if work else cache_folder() / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are small: a core each for two picks beats two for one
    try:
        if demos is None:
            name = list(models.values())[-1].name
            radii = series(name, device="cpu") if name in manifest() else {}
            demos = _seven(models, radii or models, dataset)
            models = {**models, **{f"ε {eps}": model for eps, model in radii.items()}}
        parts = _compute(demos, models, folder, workers=threads)
    finally:
        torch.set_num_threads(threads)
    write_text(path, _page(models, dataset, demos, parts))
    return path


def _compute(
    demos: Mapping[str, Demo], models: Mapping[str, Model], folder: Path, *, workers: int
) -> dict[str, dict[str, dict]]:
    """The result of every pick, by demo and by the pickers' indices; from the folder where it is there."""
    about = hashlib.sha256(b"".join(digest(model) for model in models.values()))
    for name in ("optimize", "passes", "objectives", "sites", "cut", "model", "representation"):
        about.update((HERE.parent / f"{name}.py").read_bytes())  # other code, other results
    for name in ("atlas", "demos", "inverting", "parts", "settings"):
        about.update((HERE / f"{name}.py").read_bytes())
    tasks = [
        (title, pick)
        for title, demo in demos.items()
        for pick in itertools.product(*(range(len(picker.pixels)) for picker in demo.pickers))
    ]

    def work_on(task: tuple[str, tuple[int, ...]]) -> dict:
        title, pick = task
        demo, key = demos[title], about.copy()
        key.update(repr((title, pick, demo.live.rows, demo.live.columns, demo.live.note)).encode())
        for picker in demo.pickers:
            key.update(picker.pixels.numpy().tobytes())
        file = folder / f"{key.hexdigest()[:32]}.json"
        if not file.exists():
            result = demo.live.compute(pick)
            kept = {"sheet": _text(compress(result["sheet"])), "captions": result["captions"]}
            write_text(file, json.dumps(kept))
        return json.loads(file.read_text(encoding="utf-8"))

    parts: dict[str, dict[str, dict]] = {title: {} for title in demos}
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        runs = [pool.submit(work_on, task) for task in tasks]
        try:
            for (title, pick), run in zip(tasks, tqdm(runs, desc="computing", unit="pick"), strict=True):
                parts[title][",".join(map(str, pick))] = run.result()
        except BaseException:  # Ctrl-C among them: what is finished is kept, the rest is not begun
            pool.shutdown(cancel_futures=True)
            raise
    return parts


def _seven(models: Mapping[str, Model], radii: Mapping[str, Model], dataset: str) -> dict[str, Demo]:
    """All demos, with as few picks as a page and ten minutes can take."""
    images, labels = load_images(dataset, indices=range(500))
    strange, which = load_images("out-of-distribution", size=images.shape[-1])
    captions = class_names("out-of-distribution")
    others = {"out of distribution": (strange, [captions[k] for k in which])}
    free, which = load_images("photographs", indices=range(0, 49, 6), size=images.shape[-1])
    others["photographs"] = (free, [class_names("photographs")[k] for k in which])
    few, sixteen = slice(0, 5), slice(0, 16)
    made = [
        inversion(models, images[sixteen], labels[sixteen], others=others),
        epsilon_series(radii, images[sixteen], labels[sixteen]),
        blog.brittleness(models, images[few], labels[few]),
        blog.interpolation(models, images[few], labels[few]),
        blog.feature_visualization(models, images, labels),
        blog.feature_manipulation(models, images, labels, components=3, sources=6),
        blog.misclassification(models, images, labels),
    ]
    return {demo.title: demo for demo in made}


def _page(models: Mapping[str, Model], dataset: str, demos: Mapping[str, Demo], parts: Mapping[str, dict]) -> str:
    sections, states = [], []
    for k, (title, demo) in enumerate(demos.items()):
        sections.append(f"<section><h2>{html.escape(title)}</h2><div id=demo{k} class=demo></div></section>")
        states.append(
            {
                "id": f"demo{k}",
                "pickers": [_state(picker) for picker in demo.pickers],
                "live": _state(demo.live),
                "results": parts[title],
            }
        )
    # "</" would end the script element.
    state = json.dumps({"source": ImagePicker._esm, "demos": states}, ensure_ascii=False).replace("</", "<\\/")
    networks = "; ".join(f"{label}: <code>{html.escape(model.name)}</code>" for label, model in models.items())
    script = (HERE / "page.js").read_text(encoding="utf-8")
    allowed = {"script-src": "blob:", "style-src": ""}
    style = (HERE / "page.css").read_text(encoding="utf-8") + ImagePicker._css
    for kind, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[kind] = f"'sha256-{digest}' {allowed[kind]}".strip()
    policy = "; ".join(["default-src 'none'", "img-src blob:", *(f"{kind} {what}" for kind, what in allowed.items())])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width">
<title>What a network's representation holds</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>What a network's representation holds</h1>
<p>Pick images, by mouse or keyboard, and see what a standard and an adversarially robust network make of them, after
Engstrom et al., <cite>Adversarial Robustness as a Prior for Learned Representations</cite>, arXiv:1906.00945.</p>
<p>Every picture was computed beforehand with nbhelpers by gradient descent on the pixels, with no image prior; the
line under each demo says from where and how many steps. Networks: {networks}. Images:
<code>{html.escape(dataset)}</code> and out-of-distribution pictures. Seed 0 for noise and components.
In JupyterLab the same demos run alive.</p>
<noscript><p>This page needs JavaScript, but no network.</p></noscript>
{chr(10).join(sections)}
</main>
<script type="application/json" id="state">{state}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _state(widget: ImagePicker | Live) -> dict:
    """The widget's own synchronised traits, files as text."""
    kind = ImagePicker if isinstance(widget, ImagePicker) else Live  # anywidget makes each instance a class of its own
    state = {name: getattr(widget, name) for name in kind.class_own_traits(sync=True) if name[0] != "_"}
    if isinstance(widget, ImagePicker):
        return state | {"thumbnails": [_text(compress(file)) for file in widget.thumbnails], "upload": False}
    return state | {"still": True, "result": {}, "status": {}, "switch": []}  # one way is computed beforehand


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode()
