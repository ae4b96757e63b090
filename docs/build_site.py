"""Build the documentation site into site/, strictly, and check that its pages load nothing from another host.

    make docs      # or: python docs/build_site.py

The generator runs with `--strict`: a broken link, anchor or reference fails the build.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"
MARKER = SITE / ".made-by-build_site"  # nothing else is removed
# Hosts that the theme's script names for features that this site does not use (diagrams, lightbox, repository facts).
UNUSED_HOSTS = re.compile(r"https://(?:unpkg\.com|cdn\.jsdelivr\.net|api\.github\.com)/")
# Attributes and rules that make a browser load something; links (<a href>) are not among them.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data)\s*=\s*["']?(?:https?:)?//[^"'>\s]+"""
    r"""|<link\b(?![^>]*\brel="(?:canonical|prev|next|alternate)")[^>]*\bhref\s*=\s*["']?(?:https?:)?//[^"'>\s]+"""
    r"""|@import\s+["'](?:https?:)?//[^"']+|url\(\s*["']?(?:https?:)?//[^)]+""",
    re.IGNORECASE,
)

ITEM, TEXT = re.compile(r"[-*] |\d+\. "), re.compile(r"[^\s#|>-]")  # how a line of a list and one of a text begin


def main() -> None:
    """Build, remove unused hosts from the theme's script, and check every page, style sheet and script."""
    if not is_own_site():
        sys.exit(f"{SITE} was not made by `make docs`. Move it away, or remove it, and run `make docs` again.")
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir()
    MARKER.touch()  # also of a build that fails
    zensical = Path(sys.executable).with_name("zensical")
    build = subprocess.run(
        [zensical, "build", "--strict", "--clean"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    MARKER.touch()
    if build.returncode:
        print(re.sub(r"\x1b\[[0-9;]*m", "", build.stdout).partition("Traceback (most recent call last)")[0])
        sys.exit("The documentation site was not built. Fix the messages above and run `make docs` again.")
    print("".join(line for line in build.stdout.splitlines(keepends=True) if line.startswith("griffe: ")), end="")
    for program in SITE.glob("*.py"):  # this file and generate.py are copied with the pages
        program.unlink()
    for script in SITE.rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        script.write_text(UNUSED_HOSTS.sub("/not-used/", text), encoding="utf-8")
    problems = find_unlisted() + find_misread() + find_problems()
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE / 'index.html'}")


def is_own_site() -> bool:
    """Return whether the folder of the site is missing, empty, or made by this program."""
    if SITE.is_symlink() or not SITE.is_dir():
        return not SITE.is_symlink() and not SITE.exists()
    index = SITE / "index.html"
    is_older = index.is_file() and 'content="zensical' in index.read_text(encoding="utf-8", errors="replace")
    return MARKER.exists() or is_older or not any(SITE.iterdir())


def find_unlisted() -> list[str]:
    """List the pages of docs/ that the navigation of zensical.toml does not name."""
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [f"zensical.toml: add {page} to `nav`" for page in pages if f'"{page}"' not in config]


def find_misread() -> list[str]:
    """List lines that a code host and the site read differently: blocks in lists, and lists without an empty line."""
    problems = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        is_code, before = False, ""
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            place = f"{page.relative_to(ROOT)}:{number}"
            if line.lstrip().startswith("```"):
                is_code = not is_code
                if (len(line) - len(line.lstrip())) % 4:
                    problems.append(f"{place}: indent the block by 4 spaces, or not at all")
            elif not is_code and ITEM.match(line) and TEXT.match(before) and not ITEM.match(before):
                problems.append(f"{place}: put an empty line before the list")
            before = line
    return problems


def find_problems() -> list[str]:
    """List what a page would load from another host, and images and files that do not exist."""
    problems = []
    for path in sorted(SITE.rglob("*")):
        if path.suffix in (".html", ".css"):
            text = path.read_text(encoding="utf-8")
            loads = [match[0][:160] for match in LOADS.finditer(text)]
            problems += [f"{path.relative_to(SITE)} loads from another host: {load}" for load in loads]
        if path.suffix == ".html":
            problems += [f"{path.relative_to(SITE)}: {name} does not exist" for name in find_missing(path, text)]
        if path.suffix == ".js" and path.name != "search.js":  # the search index holds the text of the pages
            text = path.read_text(encoding="utf-8")
            problems += [f"{path.relative_to(SITE)} names {match[0]}" for match in UNUSED_HOSTS.finditer(text)]
    return problems


def find_missing(page: Path, text: str) -> list[str]:
    """List the files of the site that a page names and that do not exist; the page 404.html has absolute names."""
    if page.name == "404.html":
        return []
    names = re.findall(r"""<(?:img|script|link|a)\b[^>]*?\b(?:src|href)="([^"#?:]+)(?:[#?][^"]*)?\"""", text)
    return sorted({name for name in names if not name.startswith("/") and not (page.parent / name).exists()})


if __name__ == "__main__":
    main()
