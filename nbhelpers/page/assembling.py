"""The exported page's text: its parts from files beside this one, filled with results, networks
and the engine.
"""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from nbhelpers.data.represented import digest
from nbhelpers.networks.model import Model
from nbhelpers.page.export_network import export_network
from nbhelpers.page.tensorflow import VERSION
from nbhelpers.widgets.canvas import Paint
from nbhelpers.widgets.image_picker import ImagePicker, compress, front_end
from nbhelpers.widgets.live import Demo, Live

HERE = Path(__file__).parent
_NOTEBOOKS = {
    "Brittleness": "1_brittleness",
    "Inversion": "2_inversion",
    "Inversion by training radius ε": "2_inversion",
    "Feature visualization": "3_feature_visualization",
    "Feature manipulation": "4_feature_manipulation",
    "Interpolation": "5_interpolation",
    "Misclassification": "6_misclassification",
    "Paint with features": "7_paint_with_features",
    "Distance": "8_distance",
}


def html_page(
    models: Mapping[str, Model],
    dataset: str,
    demos: Mapping[str, Demo],
    parts: Mapping[str, Mapping[str, dict]],
    *,
    files: Mapping[str, bytes],
    why: str,
    notebooks: str = "",
) -> str:
    """The page.

    Args:
        models: all networks by label, for the line that names them.
        dataset: name of the images.
        demos: by heading.
        parts: the result of every pick, by heading and by the pickers' indices.
        files: TensorFlow.js, see `library`; empty for precomputed results only.
        why: in that case, the reason.
        notebooks: address of the folder of notebooks, to link to.

    Raises:
        ValueError: a network that the page cannot compute.
    """
    networks: dict[str, dict[str, Any]] = {}

    def name_of(model: Model) -> str:
        name = digest(model).hex()[:12]  # the same weights under two labels are stored once
        if name not in networks:
            networks[name] = export_network(model)
        return name

    texts = _explanations()
    sections, contents, states = [], [], []
    for k, (title, demo) in enumerate(demos.items()):
        anchor = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
        contents.append(f"<li><a href='#{anchor}'>{html.escape(title)}</a></li>")
        sections.append(
            f"<section id='{anchor}'><h2>{html.escape(title)}</h2>{texts.get(title, '')}"
            f"<div id=demo{k} class=demo></div>{_notebook(title, notebooks)}</section>"
        )
        states.append(
            {
                "id": f"demo{k}",
                "pickers": [_state(picker) for picker in demo.pickers],
                "live": _state(demo.live),
                "results": parts[title],
                "recipe": demo.recipe.state(name_of) if demo.recipe and files else None,
            }
        )
    # "</" would end the script element.
    weights = {name: network.pop("weights") for name, network in networks.items()}
    whole = {"sources": [ImagePicker._esm, Paint._esm], "demos": states, "networks": networks}
    state = json.dumps(whole, ensure_ascii=False).replace("</", "<\\/")
    script, style = (
        front_end("page.js", "page_paint.js", "page_start.js", folder=HERE),
        front_end("page.css", folder=HERE) + Paint._css,
    )
    credit = f"TensorFlow.js {VERSION}, © Google LLC, Apache License 2.0, computes in this page."
    status = (
        "The engine starts…"
        if files
        else f"This page holds precomputed results only: {html.escape(why)}."
    )
    named = "; ".join(
        f"{html.escape(label)}: <code>{html.escape(m.name)}</code>" for label, m in models.items()
    )
    return Template(front_end("page.html", folder=HERE)).substitute(
        policy=_policy(script, style, alive=bool(files)),
        style=style,
        intro=texts["intro"],
        status=status,
        contents="".join(contents),
        sections="\n".join(sections),
        networks=named,
        dataset=f"<code>{html.escape(dataset)}</code>",
        credits=f"<p>{credit}</p>" if files else "",
        state=state,
        weights="\n".join(
            f'<script type="text/plain" id="network-{k}">{text}</script>'
            for k, text in weights.items()
        ),
        library=_engine(files) if files else "",
        script=script,
    )


def text_of(file: bytes) -> str:
    """A file as base64."""
    return base64.b64encode(file).decode()


def _engine(files: Mapping[str, bytes]) -> str:
    """The worker's script, with the library before it, and its WebAssembly, both deflated."""
    names = ("tf-core.min.js", "tf-backend-wasm.min.js")
    own = front_end("engine.js", "recipes.js", "worker.js", folder=HERE).encode()
    code = b"\n".join([*(files[name] for name in names), own])
    wasm = files["tfjs-backend-wasm-simd.wasm"]
    return json.dumps(
        {"code": text_of(zlib.compress(code, 9)), "wasm": text_of(zlib.compress(wasm, 9))}
    )


def _policy(script: str, style: str, *, alive: bool) -> str:
    """What the page may do: run its own script and style, and nothing else; no request at all."""
    hashes = [
        f"'sha256-{text_of(hashlib.sha256(text.encode()).digest())}'" for text in (script, style)
    ]
    rules = [
        "default-src 'none'",
        "img-src blob:",
        f"script-src {hashes[0]} blob:",
        f"style-src {hashes[1]}",
    ]
    if alive:
        rules[2] += " 'wasm-unsafe-eval'"
        rules.append("worker-src blob:")
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _explanations() -> dict[str, str]:
    found = re.findall(
        r'<template title="(.*?)">(.*?)</template>',
        front_end("explained.html", folder=HERE),
        re.DOTALL,
    )
    return {title: text.strip() for title, text in found}


def _notebook(title: str, address: str) -> str:
    name = _NOTEBOOKS.get(title)
    if name is None:
        return ""
    file = f"{name}.ipynb"
    shown = (
        f"<a href='{html.escape(address.rstrip('/'))}/{file}'>{file}</a>"
        if address
        else f"<code>{file}</code>"
    )
    return f"<p class='more'>With numbers and their baselines: notebook {shown}.</p>"


def _state(widget: ImagePicker | Live) -> dict:
    """The widget's own synchronised traits, files as text."""
    kinds = [kind for kind in (ImagePicker, Live, Paint) if isinstance(widget, kind)]
    names = {name for kind in kinds for name in kind.class_own_traits(sync=True) if name[0] != "_"}
    state = {name: getattr(widget, name) for name in sorted(names)}
    if isinstance(widget, ImagePicker):
        files = [text_of(compress(file)) for file in widget.thumbnails]
        return state | {"thumbnails": files, "upload": False, "takes": widget.upload}
    return state | {"result": {}, "status": {}}
