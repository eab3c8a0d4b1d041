"""The commands `nbhelpers invert` and `nbhelpers visualize`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nbhelpers.commands import command_parser

PRECISIONS = ("float32", "bfloat16")  # of nbhelpers.networks.model


def invert_command(argv: Sequence[str]) -> int:
    """Invert a data set; returns 0 complete, 1 some shards failed."""
    return _command("invert", argv)


def visualize_command(argv: Sequence[str]) -> int:
    """Visualize every component; returns 0 complete, 1 some shards failed."""
    return _command("visualize", argv)


def _command(kind: Literal["invert", "visualize"], argv: Sequence[str]) -> int:
    aim = "Invert a data set" if kind == "invert" else "Visualize every component"
    parser = command_parser(kind, f"{aim}, in shards. The same command again resumes.")
    if kind == "invert":
        parser.add_argument(
            "--dataset", required=True, help="name of a data set, or a folder of images"
        )
    else:
        parser.add_argument("--starts", type=int, default=1, help="noise images per component")
    parser.add_argument(
        "--checkpoint", required=True, help="name in checkpoints/manifest.toml, or a file"
    )
    parser.add_argument(
        "-o", dest="out", type=Path, required=True, metavar="FOLDER", help="for the shards"
    )
    parser.add_argument("--steps", type=int, default=200, help="gradient steps")
    parser.add_argument("--step-size", type=float, help="L2 length of the first step, pixel units")
    parser.add_argument("--seed", type=int, default=0, help="of the noise images")
    parser.add_argument("--batch", type=int, default=64, help="images per pass")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of gradient passes"
    )
    parser.add_argument(
        "--shard", type=int, default=512, help="items per file, a multiple of --batch"
    )
    parser.add_argument("--limit", type=int, help="make the first so many items only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--jobs", type=int, help="processes here (default: one, or one per GPU)")
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="a scheduler's address, tcp://HOST:PORT, or local"
    )
    given = parser.parse_args(argv)
    if given.jobs and given.dask and given.dask != "local":
        raise ValueError("--jobs: a Dask scheduler has its own workers; remove --jobs")
    import torch

    from nbhelpers.runs.shards import Settings, make_shards
    from nbhelpers.runs.workers import dask_executor, processes

    settings = Settings(
        kind,
        given.checkpoint,
        getattr(given, "dataset", ""),
        getattr(given, "starts", 1),
        given.steps,
        given.step_size,
        given.seed,
        given.batch,
        given.precision,
    )
    jobs = max(1, torch.cuda.device_count()) if given.jobs is None else given.jobs
    if given.dask or jobs != 1:
        os.environ["TQDM_DISABLE"] = "1"  # bars of several workers overwrite each other
    try:
        with dask_executor(given.dask, given.jobs) if given.dask else processes(jobs) as executor:
            index = make_shards(
                settings,
                given.out,
                executor,
                shard_size=given.shard,
                limit=given.limit,
                device=given.device,
            )
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{index['count']} items in {len(index['shards'])} shards, mean loss "
        f"{index['mean_loss']:.3g}: {given.out}"
    )
    return 0
