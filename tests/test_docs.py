"""What is written down and what is there are the same."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


GENERATORS = sorted((ROOT / "docs").glob("generate_*.py"))


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda path: path.stem)
def test_a_generated_page_is_what_its_generator_writes(generator: Path) -> None:
    made = runpy.run_path(str(generator))
    assert made["TARGET"].read_text() == made["page"](), "run `make docs`"


PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md"))
)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not heading or heading in headings(target), link


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_that_are_named_exist(page: str) -> None:
    """Of the project, of ``ha_scheduler``, or beside the page; a bare name is a module's."""
    tops = {path.name for path in (*ROOT.iterdir(), *(ROOT / "ha_scheduler").iterdir())}
    modules = {path.name for path in (ROOT / "ha_scheduler").rglob("*.py")}
    missing = []
    for name in re.findall(r"`([\w.*-]+(?:/[\w.*-]+)*/?)`", (ROOT / page).read_text()):
        if "/" in name and (name.split("/")[0] in tops or name.endswith(".py")):
            roots = (ROOT, ROOT / "ha_scheduler", (ROOT / page).parent)
            if not any(list(root.glob(name)) for root in roots):
                missing.append(name)
        elif re.fullmatch(r"(?!test_)\w+\.py", name) and name not in modules:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)`", text)) <= targets
    for module in re.findall(r"python -m ((?:benchmarks|demo|ha_scheduler|tests)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    links = re.findall(r"\]\((?!https?:)([^)#]+)", index.read_text())
    linked = {(index.parent / link).resolve() for link in links}
    pages = {ROOT / page for page in PAGES} - {index} - set(ROOT.glob("tests/**/*.md"))
    assert sorted(pages - linked) == []


def existing_tests() -> set[str]:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", tests, re.MULTILINE))


@pytest.mark.parametrize("page", sorted({*PAGES} - {"docs/testing.md"}))  # it has upstream's
def test_a_page_names_tests_that_exist(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text()))
    assert sorted(named - existing_tests()) == []


def features_of_what_survives() -> list[tuple[str, str]]:
    """The heading and the first cell of each row."""
    features: list[tuple[str, str]] = []
    section = ""
    for line in (ROOT / "docs" / "what-survives.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| feature |"):
            features.append((section, line.split("|")[1].strip()))
    return features


def test_each_feature_of_what_survives_has_tests_that_exist() -> None:
    tested = tomllib.loads((ROOT / "docs" / "what-is-tested.toml").read_text())
    listed = [(section, feature) for section, rows in tested.items() for feature in rows]
    assert listed == features_of_what_survives()
    cells = [(feature, tests) for rows in tested.values() for feature, tests in rows.items()]
    assert [feature for feature, tests in cells if not tests] == []
    assert sorted({test for _, tests in cells for test in tests} - existing_tests()) == []


def test_each_phase_of_a_failover_is_explained() -> None:
    code = "".join(path.read_text() for path in (ROOT / "ha_scheduler").rglob("*.py"))
    phases = set(re.findall(r'\b(?:_on_)?mark\((?:term, )?"(\w+)"', code))
    assert {"detected", "serving", "workers_back"} <= phases
    page = (ROOT / "docs" / "architecture.md").read_text()
    takeover = page.split("## Takeover\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"\| `(\w+)` \|$", takeover, re.MULTILINE)) == sorted(phases)
