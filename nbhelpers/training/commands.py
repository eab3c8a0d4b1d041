"""The commands `nbhelpers train` and `nbhelpers evaluate`."""

import argparse
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from nbhelpers import files
from nbhelpers.commands import command_parser
from nbhelpers.files import check_file, check_writable, write_text
from nbhelpers.training.settings import Training, options, size_from_text, without_split


def train_command(argv: Sequence[str]) -> int:
    """Train a network; returns the exit status."""
    parser = command_parser(
        "train", "Train a network, standard or robust (against perturbations up to --eps)."
    )
    for name, (kind, meaning) in options().items():
        default = getattr(Training, name)
        flag, choices = (
            f"--{name.replace('_', '-')}",
            get_args(kind) if get_origin(kind) is Literal else None,
        )
        convert = size_from_text if name == "image_size" else type(default)
        parser.add_argument(flag, type=convert, default=default, choices=choices, help=meaning)
    parser.add_argument(
        "--output", type=Path, help="folder (default: runs/train/<data set>-<norm>-<eps>)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in the output, if there is one"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--workers", type=int, default=2, help="threads that read a data set too large for memory"
    )
    parser.add_argument(
        "--publish", metavar="NAME", help="put the weights into checkpoints/ and its manifest too"
    )
    given = parser.parse_args(argv)
    from nbhelpers.checkpoints.downloads import save_checkpoint
    from nbhelpers.checkpoints.finite import halved
    from nbhelpers.checkpoints.readers import read_weights
    from nbhelpers.training.loop import train

    config = Training(**{name: getattr(given, name) for name in options()})
    kind = f"{config.norm}-{config.eps:g}" if config.eps else "standard"
    if given.publish and int(os.environ.get("RANK", 0)) == 0:
        _check_name(given.publish, config)
    output = (
        given.output or Path("runs/train") / f"{Path(without_split(config.dataset)).name}-{kind}"
    )
    try:
        train(config, output, resume=given.resume, device=given.device, workers=given.workers)
    except KeyboardInterrupt:
        print(f"stopped; continue with --resume --output {output}", file=sys.stderr)
        return 130
    if given.publish and int(os.environ.get("RANK", 0)) == 0:
        weights = read_weights(output / "weights.safetensors")
        assert weights.entry is not None
        _check_name(given.publish, config)  # another training may have taken it meanwhile
        save_checkpoint(given.publish, halved(weights.state), weights.entry)
    return 0


def _check_name(name: str, config: Training) -> None:
    """Refuse an invalid name, or another network's, before training."""
    from nbhelpers.checkpoints.entries import manifest

    if "/" in name or name.endswith(".safetensors"):
        raise ValueError(f"--publish: got {name!r}, wanted a name, such as cifar10-mine")
    check_writable(files.CHECKPOINTS)
    if (known := manifest().get(name)) is None:
        return
    own = json.loads(json.dumps(dataclasses.asdict(config))) | {"precision": ""}
    then = own | dict(known.training) | {"precision": ""}
    if "seed" not in known.training or any(then[key] != value for key, value in own.items()):
        raise ValueError(
            f"--publish: {name!r} is another network of the manifest; choose another name"
        )


def evaluate_command(argv: Sequence[str]) -> int:
    """Evaluate a network; returns the exit status."""
    parser = command_parser(
        "evaluate", "Clean accuracy, accuracy under attack and local sensitivity of a network."
    )
    parser.add_argument(
        "checkpoint", help="name in the manifest, a path, torchvision:NAME or timm:NAME"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="clean accuracy only, against the figure in the manifest",
    )
    parser.add_argument(
        "--dataset", help="labelled images: a name or a folder; default: what the network is for"
    )
    parser.add_argument(
        "--trained-on",
        help="data set whose normalisation is used for a file without one, such as cifar10",
    )
    parser.add_argument("--architecture", help="of the file, if its keys do not show it")
    parser.add_argument("--n", type=int, default=500, help="images, drawn at random")
    parser.add_argument(
        "--eps", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="L2 radii in pixel units"
    )
    parser.add_argument("--steps", type=int, default=20, help="of the attack")
    parser.add_argument("--restarts", type=int, default=1, help="random starts of the attack")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of the starts")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--write", action="store_true", help="write it into the manifest too")
    given = parser.parse_args(argv)
    measured = ("eps", "steps", "restarts", "json", "write")
    unused = [name for name in measured if getattr(given, name) != parser.get_default(name)]
    if given.quick and unused:
        raise ValueError(
            f"--quick measures the clean accuracy alone and writes nothing; remove --{unused[0]}"
        )
    return _evaluate(given)


def _evaluate(args: argparse.Namespace) -> int:
    from nbhelpers.checkpoints.entries import manifest, write_entry
    from nbhelpers.data.images import suited
    from nbhelpers.networks.loading import load_model
    from nbhelpers.pair.checks import TEST_IMAGES_OF, self_check
    from nbhelpers.pair.labels import labelled_first, labels_needed, left_out
    from nbhelpers.pair.scoring import evaluate
    from nbhelpers.types import whole

    entry = manifest().get(args.checkpoint)
    if args.write and entry is None:
        raise ValueError(f"--write: {args.checkpoint!r} is not in the manifest")
    if args.json:
        check_file(args.json)
    model = load_model(
        args.checkpoint, device=args.device, architecture=args.architecture, dataset=args.trained_on
    )
    source = args.dataset or TEST_IMAGES_OF.get(args.trained_on or (entry.dataset if entry else ""))
    if source is None:
        raise ValueError(
            "--dataset: which labelled images? A name, such as cifar10-sample, or a folder per "
            "class"
        )
    images = suited(source, model)
    truth = labels_needed(model, images)
    picked = labelled_first(truth, whole(args.n, "n", least=1), seed=args.seed)
    pixels, labels = images.load(picked)[0], truth[picked]
    if bool((truth < 0).any()):
        print(left_out(truth, images))
    print(f"{model}\n{len(picked)} images of {source}, seed {args.seed}, {model.device}")
    if args.quick:
        print(f"accuracy {self_check(model, pixels, labels):.1f} %: as expected")
        return 0
    result = evaluate(
        model,
        pixels,
        labels,
        eps=args.eps,
        steps=args.steps,
        restarts=args.restarts,
        seed=args.seed,
    ) | {"dataset": str(source), "seed": args.seed, "date": datetime.date.today().isoformat()}
    print(
        f"{result['attack']}\n{'eps':>6} {'accuracy':>9} {'sensitivity':>12}\n{0:>6} "
        f"{result['clean']:>8.1f}%"
    )
    for radius, percent in result["l2"].items():
        moved = result["sensitivity"][radius]
        print(f"{radius:>6} {percent:>8.1f}% {'–' if moved is None else f'{moved:.3f}':>12}")
    if args.json:
        about = {"checkpoint": args.checkpoint, "device": str(model.device)}
        write_text(args.json, json.dumps(about | result, indent=1))
    if args.write and entry is not None:
        known = {radius: value for radius, value in result["sensitivity"].items() if value}
        write_entry(dataclasses.replace(entry, accuracy=result | {"sensitivity": known}))
    return 0
