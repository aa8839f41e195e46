"""`make feature` begins a feature that works, or says why not and leaves everything as it was."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.running import service_environment
from tests.template.conftest import Render
from tests.template.edits import delete_the_example
from tests.template.recipes import USUAL
from tests.template.trees import read_tree

LONGEST = "x" * 29 + "s"
Begin = Callable[..., "subprocess.CompletedProcess[str]"]


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a module of Python in a service, in the environment of this repository."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=service_environment() | {"DEVSERVERS": "embedded", "PATH": tools},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(assemble: Render, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A service of its own; the default answers unless the test has others."""
    answers = getattr(request, "param", {})
    return Path(shutil.copytree(assemble(**answers), tmp_path / "service"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([""], "a-z, 0-9"),
        (["Products"], "a-z, 0-9"),
        (["order-lines"], "a-z, 0-9"),
        (["../products"], "a-z, 0-9"),
        (["products_"], "a-z, 0-9"),
        (["xs" * 16], "at most 30 characters"),
        (["sheep"], "SINGULAR"),
        (["sheep", "--singular", "sheep"], "Use a plural"),
        (["people", "--singular", "Person"], "a-z, 0-9"),
        (["classes", "--singular", "class"], "a word of Python"),
        (["lists"], "a word of Python"),
        (["items"], "app/items is there already"),
        (["settings", "--singular", "one"], "app/settings is there already"),
        (["metrics", "--singular", "metric"], "the service itself answers at /metrics"),
    ],
)
def test_a_name_that_cannot_be_is_refused(folder: Path, arguments: list[str], why: str) -> None:
    before = read_tree(folder)
    done = run(folder, "scaffold", *arguments)
    assert done.returncode == 2
    assert why in done.stdout
    assert done.stdout.count("\n") == 1
    assert read_tree(folder) == before


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ('    __tablename__ = "products"\n', "a table 'products'"),
        ('router = APIRouter(prefix="/products")\n', "routes below /products"),
        ('@router.get("/products/{product_id}")\n', "routes below /products"),
        ('cache.policy(\n    "product", Product, ttl=1\n)\n', "a policy of the cache"),
        ('class Sold(Event, name="product.sold"): ...\n', "events 'product'"),
    ],
)
def test_what_a_feature_has_already_is_not_had_twice(folder: Path, theirs: str, why: str) -> None:
    (folder / "app/shop.py").write_text(theirs, "utf-8")
    before = read_tree(folder)
    done = run(folder, "scaffold", "products")
    assert done.returncode == 2
    assert why in done.stdout
    assert "app/shop.py" in done.stdout
    assert read_tree(folder) == before


@pytest.mark.parametrize("without_example", [False, True])
@pytest.mark.parametrize(
    "folder", [{}, {"database": "s3"}, {"events": True}], indirect=True, ids=str
)
def test_it_has_the_style_of_a_service(folder: Path, without_example: bool) -> None:
    if without_example:
        delete_the_example(folder)
    for name in "products", "order_lines", LONGEST:
        done = run(folder, "scaffold", name)
        assert done.returncode == 0, done.stdout
        written = done.stdout.splitlines()[:-1]
        assert all((folder / path).is_file() for path in written)
        assert f"install_{name}(service, database, cache" in (folder / "app/main.py").read_text()
    checked = [run(folder, "ruff", *words, "-q") for words in (["check"], ["format", "--check"])]
    assert [done.stdout for done in checked if done.returncode] == []
    for path in (folder / "app/order_lines").iterdir():
        assert re.findall(r"(?i)\b_?things?", path.read_text("utf-8")) == []


def test_where_main_has_no_place_for_it_the_lines_are_told(folder: Path) -> None:
    main = folder / "app/main.py"
    main.write_text(main.read_text("utf-8").replace("add yours here", "are here"), "utf-8")
    before = main.read_text("utf-8")
    done = run(folder, "scaffold", "people", "--singular", "person")
    assert done.returncode == 1
    assert "from app.people.install import install_people" in done.stdout
    assert "install_people(service, database, cache)" in done.stdout
    assert main.read_text("utf-8") == before
    assert "add yours here" in (folder / "benchmarks/traffic.py").read_text("utf-8")
    traffic = folder / "benchmarks/traffic.py"
    traffic.unlink()
    done = run(folder, "scaffold", "books")
    assert done.returncode == 1
    assert 'found["/books/{book_id}"]' in done.stdout
    assert (folder / "app/people/routes.py").is_file()


def test_what_cannot_be_written_leaves_nothing_behind(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.rmtree(folder / "tests")
        (folder / "tests").write_text("in the way")  # root may write everywhere
    else:
        (folder / "tests").chmod(0o555)
    before = read_tree(folder)
    done = run(folder, "scaffold", "products")
    assert done.returncode == 2
    assert "cannot be written" in done.stdout
    assert read_tree(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("answers", [USUAL, {"database": "s3"}], ids=["sqlite", "s3"])
def test_it_works_as_it_is(render: Render, tmp_path: Path, answers: dict[str, str | bool]) -> None:
    """Its types, its tests, and Alembic, which finds nothing to do."""
    folder = Path(shutil.copytree(render(**answers), tmp_path / "service"))
    for name in "products", "order_lines":
        assert run(folder, "scaffold", name).returncode == 0
    main = (folder / "app/main.py").read_text("utf-8")
    assert main.index("install_products(") < main.index("install_order_lines(")
    tests = ["tests/products", "tests/order_lines", "tests/benchmarks/test_service.py"]
    if (folder / "migrations").exists():
        tests += ["tests/test_database.py", "tests/test_migrations.py"]
    files = ["app/products", "app/order_lines", "app/main.py", *tests[:2], "benchmarks"]
    for command in (["mypy", *files], ["pytest", "-q", *tests]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stdout[-8000:]


_PRICE = "    price: Mapped[int | None]\n"
_ORDERS = '''"""Orders."""

from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database.tables import Base


class OrderRow(Base):
    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"))
'''


def with_price(table: Path) -> str:
    return table.read_text("utf-8").replace("    version:", f"{_PRICE}    version:")


@pytest.mark.slow
def test_a_migration_continues_the_branch_of_its_feature(service: Render) -> None:
    """Or begins one, where no branch is left but those of other features."""
    folder = service(**USUAL)
    for name in "products", "shops":
        assert run(folder, "scaffold", name).returncode == 0
    delete_the_example(folder)
    orders = folder / "app/orders/table.py"
    products, shops = folder / "app/products/table.py", folder / "app/shops/table.py"
    products.write_text(with_price(products), "utf-8")
    (folder / "shops.py").write_text(with_price(shops), "utf-8")
    new_feature = folder / "orders.py"
    new_feature.write_text(_ORDERS, "utf-8")
    orders.parent.mkdir()
    alembic = f"{sys.executable} -m alembic"
    steps = (
        f"{alembic} upgrade heads",
        f"{alembic} revision --autogenerate -m price",
        f"{alembic} upgrade heads",
        "sed -i.old 's/price/cost/' app/products/table.py",
        "mv shops.py app/shops/table.py",
        f"{alembic} revision --autogenerate -m both",
        f"{alembic} upgrade heads",
        f"mv orders.py {orders.relative_to(folder)}",
        f"{alembic} revision --autogenerate -m orders",
        f"{alembic} upgrade heads",
        f"{alembic} check",
        "rm -r app/orders app/products app/shops",
        f"{alembic} revision --autogenerate -m drop",
        f"{alembic} upgrade heads",
        f"{alembic} check",
        f"{alembic} downgrade base",
    )
    done = run(folder, "devservers", "--", "sh", "-c", " && ".join(steps))
    assert done.returncode == 0, done.stdout[-4000:]
    [price] = (folder / "migrations/versions").glob("*_price.py")
    assert 'down_revision = "products_0001"' in price.read_text("utf-8")
    [both] = (folder / "migrations/versions").glob("*_both.py")
    assert 'depends_on = "shops_0001"' in both.read_text("utf-8")
    [begun] = (folder / "migrations/versions").glob("*_orders.py")
    assert "down_revision = None" in begun.read_text("utf-8")
    [revision] = re.findall(r'^revision = "(\w+)"', both.read_text("utf-8"), re.MULTILINE)
    assert f'depends_on = "{revision}"' in begun.read_text("utf-8")
    [dropped] = (folder / "migrations/versions").glob("*_drop.py")
    upgrade = dropped.read_text("utf-8").partition("def downgrade")[0]
    assert upgrade.count("drop_table") == 3
