"""One HTML file with all demos: networks, pictures, a poster for each, and the engine that computes
everything else. No kernel, no network.
"""

import base64
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import torch
from tqdm import tqdm

from nbhelpers.checkpoints.entries import manifest
from nbhelpers.files import check_writable, write_text
from nbhelpers.networks.loading import load_model
from nbhelpers.networks.model import Model
from nbhelpers.page.graphs import export_network
from nbhelpers.page.pictures import Pictures, picture_sheet, read_pictures
from nbhelpers.page.posters import STEPS, Poster, Posters, selective
from nbhelpers.page.tensorflow import VERSION, library
from nbhelpers.representation import represent
from nbhelpers.widgets.image_picker import HERE as WIDGETS
from nbhelpers.widgets.image_picker import front_end
from nbhelpers.widgets.strokes import write_note

HERE = Path(__file__).parent
PAIR = {"robust": "tiny-l2-2.0", "standard": "tiny-standard"}
SCRIPTS = ("networks", "pictures", "demos", "frame", "board", "recognition", "start")
# Files of TensorFlow.js that the worker starts with, before its own.
LIBRARY = ("tf-core.min.js", "tf-backend-wasm.min.js")
NAMES = {
    "inversion": "Inversion",
    "layers": "Layers",
    "classes": "Classes",
    "features": "Features",
    "paint": "Paint",
    "fill": "Fill a hole",
    "between": "Between two pictures",
    "mistakes": "Mistakes",
    "brittle": "Brittle pairs",
    "distance": "Distance",
}


def export_page(
    path: str | os.PathLike[str],
    *,
    models: Mapping[str, Model] | None = None,
    dataset: str = "pictures",
    engine: bool = True,
    poster_steps: int = STEPS,
    notebooks: str = "",
) -> Path:
    """Write all demos into one HTML file, whole or not at all.

    Args:
        path: of the file.
        models: networks by label, robust first, of one size and the same classes; None for the
            64-pixel pair that ships.
        dataset: pictures to choose from, see `load_images`; the first 320 in the strip's order.
        engine: bring TensorFlow.js along (from the npm registry, kept in the cache). Without it
            the page shows its posters only.
        poster_steps: gradient steps of the pictures computed beforehand.
        notebooks: address of the folder of notebooks, to link to.

    Raises:
        ValueError: the file cannot be written, or a network has an operation that the page does
            not know.
    """
    path = Path(path)
    check_writable(path.parent)
    if path.is_dir():
        raise ValueError(f"path: {path} is a folder; name a file in it, such as {path}/demos.html")
    if models is None:
        models = {label: load_model(name, device="cpu") for label, name in PAIR.items()}
    files, why = _library() if engine else ({}, "it was written without an engine")
    steps = tqdm(total=4, desc="page")
    networks = [export_network(model) for model in models.values()]
    steps.update()
    pictures = read_pictures(dataset, next(iter(models.values())))
    steps.update()
    layers = [network["layers"] for network in networks]
    posters = Posters(models, pictures, layers, steps=poster_steps).all()
    steps.update()
    weights = [network.pop("weights") for network in networks]
    state = _state(models, networks, pictures, posters) | {"dataset": dataset}
    text = _html(models, pictures, posters, state, weights, files, why, notebooks)
    write_text(path, text)
    steps.update()
    steps.close()
    return path


def labelled(names: Sequence[str]) -> dict[str, Model]:
    """Networks as "robust" and "standard", robust first, if training distinguishes them; else by
    their names.
    """
    known = manifest()
    kinds = [
        "standard" if name in known and known[name].training.get("norm") == "none" else "robust"
        for name in names
    ]
    labels = kinds if len({*kinds}) == len(names) else list(names)
    models = {
        label: load_model(name, device="cpu") for label, name in zip(labels, names, strict=True)
    }
    return dict(sorted(models.items(), key=lambda item: not item[0].startswith("robust")))


def _library() -> tuple[Mapping[str, bytes], str]:
    """TensorFlow.js, or nothing and why."""
    try:
        return library(), ""
    except (ValueError, OSError) as error:
        print(f"The page will have its posters only: {error}.", file=sys.stderr)
        return {}, str(error)


def _state(
    models: Mapping[str, Model],
    networks: list[dict[str, Any]],
    pictures: Pictures,
    posters: Mapping[str, Poster],
) -> dict[str, Any]:
    """What the page's script is given, as JSON."""
    held = [represent(model, pictures.images).float() for model in models.values()]
    note = write_note(models, pictures.images[:1], [], seed=0)
    named = zip(models.items(), networks, strict=True)
    kept = {"source", "strokes"}
    return {
        "networks": [about | {"label": label, "name": m.name} for (label, m), about in named],
        "sides": list(pictures.images.shape[-2:]),
        "pictures": [
            {"name": name, "credit": credit["credit"]}
            for name, credit in zip(pictures.names, pictures.credits, strict=True)
        ],
        "component": selective(next(iter(models.values())), pictures),
        "wrong": pictures.wrong(list(models.values())),
        "activations": [
            {"width": values.shape[1], "bytes": text_of(values.numpy().astype("<f4").tobytes())}
            for values in held
        ],
        "settings": Posters(models, pictures, []).settings,
        "posters": {name: {"captions": poster.captions} for name, poster in posters.items()},
        "note": {key: value for key, value in note.items() if key not in kept},
        "version": version("nbhelpers"),
    }


def _html(
    models: Mapping[str, Model],
    pictures: Pictures,
    posters: Mapping[str, Poster],
    state: dict[str, Any],
    weights: list[str],
    files: Mapping[str, bytes],
    why: str,
    notebooks: str,
) -> str:
    early = front_end("bytes.js", "workers.js", folder=HERE)
    script = front_end(*(f"{name}.js" for name in SCRIPTS), folder=HERE)
    style = front_end("frame.css", folder=WIDGETS) + front_end("page.css", folder=HERE)
    shown = [
        {
            "id": name,
            "name": NAMES[name],
            "sheet": text_of(
                picture_sheet(torch.stack(poster.images), columns=min(8, len(poster.images)))
            ),
            "caption": "; ".join(": ".join(filter(None, line)) for line in poster.captions),
        }
        for name, poster in posters.items()
    ]
    credit = f"TensorFlow.js {VERSION}, © Google LLC, Apache License 2.0, computes in this page."
    template = jinja2.Environment(autoescape=True).from_string(front_end("page.html", folder=HERE))
    safe = markupsafe.Markup
    return template.render(
        policy=safe(_policy(early, script, style=style, engine=bool(files))),
        style=safe(style),
        early=safe(early),
        script=safe(script),
        explained=safe(front_end("explained.html", folder=HERE)),
        networks=", ".join(f"{label}: {model.name}" for label, model in models.items()),
        notebooks=notebooks,
        pictures=pictures.credits,
        engine=credit if files else f"No engine: {why}.",
        posters=shown,
        state=safe(json_of(state)),
        sheet=text_of(pictures.sheet),
        weights=[safe(text) for text in weights],
        library=safe(_engine(files, len(models))) if files else "",
    )


def text_of(file: bytes) -> str:
    """A file as base64."""
    return base64.b64encode(file).decode()


def _engine(files: Mapping[str, bytes], count: int) -> str:
    """The worker's script with the library before it, which begins at once, and deflated its
    WebAssembly and the part for the graphics card.
    """
    own = front_end("bytes.js", "engine.js", "worker.js", folder=HERE)
    parts = {
        "wasm": files["tfjs-backend-wasm-simd.wasm"],
        "webgpu": files["tf-backend-webgpu.min.js"],
    }
    packed = {name: text_of(zlib.compress(part, 9)) for name, part in parts.items()}
    code = "\n".join([*(files[name].decode() for name in LIBRARY), own])
    return json_of(packed | {"code": code, "count": count})


def json_of(values: Mapping[str, Any]) -> str:
    """JSON in which no "</" would end the script element."""
    return json.dumps(values, ensure_ascii=False).replace("</", "<\\/")


def _policy(*scripts: str, style: str, engine: bool) -> str:
    """What the page may do: run its own scripts and style, and nothing else; no request at all."""
    *own, styled = (
        f"'sha256-{text_of(hashlib.sha256(text.encode()).digest())}'" for text in (*scripts, style)
    )
    wasm = " 'wasm-unsafe-eval'" if engine else ""
    rules = [
        "default-src 'none'",
        "img-src data: blob:",
        f"script-src {' '.join(own)} blob:{wasm}",
        f"style-src {styled}",
        *(["worker-src blob:"] if engine else []),
    ]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
