"""The command `nbhelpers gallery`."""

from collections.abc import Sequence

from nbhelpers.commands import command_parser


def gallery_command(argv: Sequence[str]) -> int:
    """Write all demos into one HTML file; returns the exit status."""
    parser = command_parser("gallery", "Write all demos into one HTML file that needs no kernel.")
    parser.add_argument("path", nargs="?", default="runs/gallery.html", help="HTML file to write")
    parser.add_argument("--dataset", default="pictures", help="pictures to choose from, by name")
    parser.add_argument(
        "--networks",
        nargs="+",
        metavar="NAME",
        help="networks by name, the 64-pixel pair if not given",
    )
    parser.add_argument(
        "--posters",
        action="store_true",
        help="pictures computed beforehand only, without the engine",
    )
    parser.add_argument("--notebooks", default="", help="address of the notebooks, to link to")
    given = parser.parse_args(argv)
    from nbhelpers.page.exporting import export_page, labelled

    path = export_page(
        given.path,
        models=labelled(given.networks) if given.networks else None,
        dataset=given.dataset,
        engine=not given.posters,
        notebooks=given.notebooks,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
