"""Build the web site, build/site: README, docs, notebooks, demos, API reference.

python -m tools site, after `make gallery api`. Dead links are errors.
"""

import html
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import mistune

from nbhelpers import files
from nbhelpers.runs.pages import notebook_page

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
TEXTS = ("README.md", "docs/*.md", "data/README.md", "checkpoints/README.md", "CHANGELOG.md")
COPIED = ("docs/*.png", "docs/*.webp", "CITATION.cff", "LICENSE", "checkpoints/manifest.toml")
FRAME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 17px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 52rem; padding: 1rem; }}
img {{ max-width: 100%; }}
pre {{ background: #f4f4f4; overflow-x: auto; padding: 0.8rem; }}
code {{ font-size: 0.88em; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ border: 1px solid #ccc; padding: 0.3rem 0.6rem; text-align: left; vertical-align: top; }}
td img {{ max-width: 20rem; }}
</style>
<nav>{links}</nav>
<main>{body}</main>
</html>
"""
# the site has the reference, docs/api.md only the command to build it
REFERENCE = {"docs/api.md": "api/nbhelpers.html", "api.md": "../api/nbhelpers.html"}
PAGES = {
    "Robust representations": "index.html",
    "Demos": "demos.html",
    "API": "api/nbhelpers.html",
    "Changes": "CHANGELOG.html",
}


def main() -> None:
    shutil.rmtree(SITE, ignore_errors=True)
    for pattern in COPIED:
        for source in ROOT.glob(pattern):
            copy(source, SITE / source.relative_to(ROOT))
    copy(ROOT / "runs" / "gallery.html", SITE / "demos.html")
    shutil.copytree(ROOT / "build" / "api", SITE / "api")
    for source in files.notebooks():
        copied = copy(source, SITE / "notebooks" / source.name)
        page = notebook_page(copied)
        if page is None:
            raise SystemExit(f"error: no page of {source.name}")
        page.write_text(placed(page.read_text(encoding="utf-8")), encoding="utf-8")
    for pattern in TEXTS:
        for source in ROOT.glob(pattern):
            write(source)
    pages = sorted(SITE.rglob("*.html"))
    if lost := [f"{page.relative_to(SITE)}: {link}" for page in pages for link in dead(page)]:
        raise SystemExit("error: links that lead nowhere:\n" + "\n".join(lost))
    size = sum(file.stat().st_size for file in SITE.rglob("*") if file.is_file())
    print(f"wrote {SITE.relative_to(ROOT)}: {len(pages)} pages, {size / 1e6:.0f} MB")


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


def place(link: str) -> str:
    """The site's address for a link in the repository."""
    link = REFERENCE.get(link, link)
    link = re.sub(r"(^|/)README\.md", r"\1index.html", link)
    return re.sub(r"\.(md|ipynb)(?=#|$)", ".html", link)


def placed(page: str) -> str:
    """A page with its links to Markdown files and notebooks replaced by the site's."""
    return re.sub(r'href="([^":]+)"', lambda m: f'href="{place(m[1])}"', page)


def write(source: Path) -> None:
    """Write a Markdown file as a page, with GitHub's heading ids."""
    relative = Path(place(str(source.relative_to(ROOT).as_posix())))
    up = "../" * (len(relative.parts) - 1)
    markdown = mistune.create_markdown(escape=False, plugins=["table", "strikethrough"])
    body = str(markdown(source.read_text(encoding="utf-8")))
    body = re.sub(
        r"<h(\d)>(.*?)</h\1>", lambda m: f'<h{m[1]} id="{slug(m[2])}">{m[2]}</h{m[1]}>', body
    )
    body = placed(body)
    found = re.search(r"<h1[^>]*>(.*?)</h1>", body)
    title = re.sub("<.*?>", "", found[1]) if found else relative.stem
    links = " · ".join(f'<a href="{up}{to}">{html.escape(name)}</a>' for name, to in PAGES.items())
    target = SITE / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(FRAME.format(title=title, links=links, body=body), encoding="utf-8")


def slug(heading: str) -> str:
    text = html.unescape(re.sub("<.*?>", "", heading)).lower()
    return re.sub(r"[^\w -]", "", text).replace(" ", "-")


def dead(page: Path) -> list[str]:
    """Links of a page to missing files or headings."""
    if page.is_relative_to(SITE / "api") or page == SITE / "demos.html":
        return []  # pdoc checks its own pages; the demos have no links
    lost = []
    for link in re.findall(r'(?:href|src)="([^":]*)"', page.read_text(encoding="utf-8")):
        name, _, anchor = unquote(link).partition("#")
        file = page.parent / name if name else page
        if not file.is_file() or (anchor and f'id="{anchor}"' not in file.read_text("utf-8")):
            lost.append(link)
    return lost


if __name__ == "__main__":
    main()
