"""The command `nbhelpers gallery`."""

from collections.abc import Sequence

from nbhelpers.commands import command_parser
from nbhelpers.widgets.page import export_page


def gallery_command(argv: Sequence[str]) -> int:
    """Write all demos into one HTML file; returns the exit status."""
    parser = command_parser("gallery", "Write all demos, computed beforehand, into one HTML file. Resumes.")
    parser.add_argument("path", nargs="?", default="runs/gallery.html", help="HTML file to write")
    parser.add_argument("--dataset", default="cifar10-sample", help="images, by name")
    parser.add_argument("--work", help="folder of results, to go on after a break (in the cache where not given)")
    given = parser.parse_args(argv)
    path = export_page(given.path, dataset=given.dataset, work=given.work)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
