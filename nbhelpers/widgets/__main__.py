"""Write the demos as one HTML file: python -m nbhelpers.widgets OUT.html"""

import argparse

from nbhelpers.widgets.page import export_page

parser = argparse.ArgumentParser(prog="python -m nbhelpers.widgets", description=__doc__)
parser.add_argument("path", help="HTML file to write")
parser.add_argument("--dataset", default="cifar10-sample", help="images, by name (default: %(default)s)")
parser.add_argument("--work", help="folder of results, to go on after a break (default: in the cache)")
given = parser.parse_args()
path = export_page(given.path, dataset=given.dataset, work=given.work)
print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
