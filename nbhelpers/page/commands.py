"""The command `nbhelpers gallery`."""

from collections.abc import Sequence

from nbhelpers.commands import command_parser


def gallery_command(argv: Sequence[str]) -> int:
    """Write all demos into one HTML file; returns the exit status."""
    parser = command_parser(
        "gallery", "Write all demos into one HTML file that needs no kernel. Resumes."
    )
    parser.add_argument("path", nargs="?", default="runs/gallery.html", help="HTML file to write")
    parser.add_argument("--dataset", default="cifar10-sample", help="images, by name")
    parser.add_argument(
        "--work", help="folder of results, to go on after a break (in the cache where not given)"
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        metavar="NAME",
        help="networks by name, standard and robust if not given",
    )
    parser.add_argument(
        "--precomputed", action="store_true", help="leave out what computes in the browser"
    )
    parser.add_argument("--notebooks", default="", help="address of the notebooks, to link to")
    given = parser.parse_args(argv)
    from nbhelpers.networks.loading import load_model
    from nbhelpers.page.exporting import export_page

    models = {name: load_model(name, device="cpu") for name in given.networks or ()}
    path = export_page(
        given.path,
        models=models or None,
        dataset=given.dataset,
        work=given.work,
        live=not given.precomputed,
        notebooks=given.notebooks,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
