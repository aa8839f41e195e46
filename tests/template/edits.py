"""What teams do to a service between two versions of the template."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

Edit = Callable[[Path], None]

# A file of app/core, which belongs to the template, that teams change all the same.
CORE = "app/core/redis/clients.py"
OWN_FEATURES = "    # This service's own features: add yours here.\n"
OWN_MIDDLEWARE = (
    "    # This service's own middleware: add yours here. Hits of the cache pass it, too.\n"
)
OWN_SETTINGS = "    # This service's own settings: add yours here.\n"


def replace(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence. There has to be one, or the edit would prove nothing."""
    text = path.read_text("utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1), "utf-8")


def insert_after(path: Path, anchor: str, text: str) -> None:
    replace(path, anchor, anchor + text)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text("utf-8") + text, "utf-8")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def change_a_line(service: Path) -> None:
    replace(service / CORE, "\ndef create_", "\n# Ours.\ndef create_")


def add_a_feature(service: Path) -> None:
    """A folder of its own, and the two lines that wire it."""
    write(service / "app/payments/__init__.py", '"""Payments."""\n')
    write(service / "app/payments/install.py", '"""Payments over HTTP."""\n')
    main = service / "app/main.py"
    ours = "from app.payments.install import install_payments\n"
    insert_after(main, "import install_items\n", ours)
    insert_after(main, OWN_FEATURES, "    install_payments(service)\n")


def add_a_middleware(service: Path) -> None:
    main = service / "app/main.py"
    insert_after(main, OWN_MIDDLEWARE, "    service.middleware(PaymentsMiddleware)\n")


def add_settings(service: Path) -> None:
    insert_after(service / "app/settings/__init__.py", OWN_SETTINGS, "    payments_url: str = ''\n")


def add_a_dependency(service: Path) -> None:
    """In the block for it, the second one of the list."""
    path = service / "pyproject.toml"
    before, start, rest = path.read_text("utf-8").partition("\ndependencies = [\n")
    block, end, after = rest.partition("\n]\n")
    path.write_text(f'{before}{start}{block}\n  "stripe>=11",{end}{after}', "utf-8")


def bump_a_dependency(service: Path) -> None:
    """One of the template's."""
    replace(service / "pyproject.toml", '"pydantic-settings>=', '"pydantic-settings>=0.')


def add_a_test(service: Path) -> None:
    write(service / "tests/test_payments.py", '"""Tests of payments."""\n')


def extend_the_readme(service: Path) -> None:
    replace(service / "README.md", "## Every day\n", "## Every day\n\nOurs are long.\n")
    append(service / "README.md", "\n## Payments\n\nAsk the payments team.\n")


def add_sections_to_the_readme(service: Path) -> None:
    """In the place for them, and between a section that an answer changes and the next one."""
    readme = service / "README.md"
    insert_after(readme, "Write them here: updates leave this place alone.\n", "\n### Ours\n")
    replace(readme, "\n## Every day\n", "\n## Our tables\n\nOurs.\n\n## Every day\n")


def rework_the_example(service: Path) -> None:
    append(service / "app/items/routes.py", "# Ours now.\n")
    (service / "app/items/errors.py").unlink()


def delete_the_example(service: Path) -> None:
    """Its folders, its migration, and the line that installs it, with its import."""
    shutil.rmtree(service / "app/items")
    shutil.rmtree(service / "tests/items")
    (service / "migrations/versions/0001_items.py").unlink(missing_ok=True)
    main = service / "app/main.py"
    lines = main.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if "install_items" not in line]
    assert len(kept) == len(lines) - 2
    main.write_text("".join(kept), "utf-8")


# All of these merge with what the template changes meanwhile.
TYPICAL: tuple[Edit, ...] = (
    change_a_line,
    add_a_feature,
    add_a_middleware,
    add_settings,
    add_a_dependency,
    bump_a_dependency,
    add_a_test,
    extend_the_readme,
    add_sections_to_the_readme,
    rework_the_example,
)


def typical(service: Path) -> None:
    for edit in TYPICAL:
        edit(service)


def nothing(_service: Path) -> None:
    """A team that left everything as it was."""


# Where both change the same lines, only people can decide: files, and our words in each.
CONFLICTS = {
    CORE: " (ours)",
    "pyproject.toml": "fastapi>=1000",
    "README.md": "# Our title",
    "compose.yaml": "# Ours",
    "app/core/redis/report.py": "Ours, too",
}


def conflicting(service: Path) -> None:
    """The same lines as the template, the line next to one, and a file of the same name."""
    for name in (CORE, "README.md"):
        path = service / name
        first = path.read_text("utf-8").partition("\n")[0]
        replace(path, first, CONFLICTS[name] if name == "README.md" else f"{first} (ours)")
    fastapi = re.compile(r"fastapi>=[\d.]+")
    path = service / "pyproject.toml"
    path.write_text(fastapi.sub(CONFLICTS[path.name], path.read_text("utf-8"), count=1), "utf-8")
    compose = service / "compose.yaml"
    compose.write_text(f"# Ours\n{compose.read_text('utf-8')}", "utf-8")
    write(service / "app/core/redis/report.py", f'"""{CONFLICTS["app/core/redis/report.py"]}."""\n')
