"""The command line: its input, its output, and how it ends."""

import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from devservers.waiting import HANG, wait_until
from fleet.inventory import InvalidInventory, read_inventory
from fleet.report import page
from fleet.results import Result, State, without_credentials
from fleet.versions import newest_of
from scripts.snapshot import git, release
from tests.fleet.conftest import Fleet, command, inventory
from tests.fleet.generated import NEWEST, RELEASES, Service
from tests.template.answers import ROOT
from tests.template.edits import append, write
from tests.template.history import commit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("", "it lists no repositories", id="empty"),
        pytest.param("# none\n\n", "it lists no repositories", id="comments"),
        pytest.param("a\nb\n./a\n", ":3: ./a is listed in line 1", id="twice"),
        pytest.param("a\n--upload-pack=x\n", ":2: '--upload-pack=x' is neither", id="an option"),
        pytest.param("a b\n", ":1: 'a b' is neither a URL nor a path", id="two on a line"),
        pytest.param("a#../b\n", ":1: '../b' is no folder in a repository", id="outside"),
        pytest.param(b"\xff\xfe", "it is not UTF-8 text", id="binary"),
        pytest.param(None, "No such file or directory", id="missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_line(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    file = tmp_path / "fleet.txt"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InvalidInventory) as caught:
        read_inventory(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_paths_count_from_the_file_and_urls_are_left_to_git(tmp_path: Path) -> None:
    file = tmp_path / "fleet.txt"
    file.write_text(
        "orders # ours\n/srv/git/billing\ngit@host:x/y.git\nhttps://host/z.git\nmono#services/a/\n"
    )
    assert read_inventory(file) == [
        str(tmp_path / "orders"),
        "/srv/git/billing",
        "git@host:x/y.git",
        "https://host/z.git",
        f"{tmp_path / 'mono'}#services/a",
    ]


def test_no_password_is_shown() -> None:
    result = Result("https://me:secret@host/orders.git")
    assert result.shown == "https://***@host/orders.git"
    assert "secret" not in str(result.as_json())
    assert without_credentials("ssh://git@host/x") == "ssh://git@host/x"


def test_the_newest_release_is_no_prerelease_and_not_the_last_of_the_alphabet() -> None:
    assert newest_of(["v1.9.0", "v1.10.0", "v2.0.0rc1", "nightly"]) == "v1.10.0"
    assert newest_of(["nightly"]) == ""


def test_the_json_keeps_its_fields() -> None:
    """Scripts read them: add some, rename none."""
    assert Result("x").as_json() == {
        "repository": "x",
        "state": "failed",
        "old": "",
        "new": "",
        "files": [],
        "conflicts": [],
        "drift": [],
        "dirty": False,
        "cause": "",
        "branch": "",
        "pushed": False,
        "seconds": 0.0,
    }
    assert [*State] == ["current", "clean", "behind", "conflict", "broken", "failed"]


@pytest.mark.slow
def test_wrong_usage_has_an_exit_code_of_its_own(fleet: Fleet, tmp_path: Path) -> None:
    done = fleet("update", tmp_path / "missing.txt")
    assert done.code == 2
    assert done.errors == f"fleet: {tmp_path / 'missing.txt'}: No such file or directory\n"


@pytest.mark.slow
def test_all_current_is_success_in_plain_lines(
    services: list[Service], fleet: Fleet, tmp_path: Path
) -> None:
    file = inventory(tmp_path / "fleet.txt", [services[0].repository])
    done = fleet("update", file)
    assert (done.code, done.errors) == (0, "")
    assert done.output == (
        f"current  {services[0].repository}  {NEWEST} -> {NEWEST}  0 files\n"
        "1 repositories: 1 current\n"
    )


@pytest.mark.slow
def test_another_version_and_a_template_that_moved(
    services: list[Service], released: Path, fleet: Fleet, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    git("clone", "--quiet", released, moved, cwd=tmp_path)
    service = next(found for found in services if found.old == RELEASES[0])
    file = inventory(tmp_path / "fleet.txt", [service.repository])
    relative = os.path.relpath(moved, ROOT)  # counts from where the user is
    done = fleet("update", file, "--template", relative, "--to", RELEASES[1], "--json")
    [result] = done.repositories()
    assert (result["state"], result["new"]) == ("clean", RELEASES[1]), result["cause"]


@pytest.mark.slow
def test_a_path_of_this_machine_is_not_pushed(fleet: Fleet, tmp_path: Path) -> None:
    file = inventory(tmp_path / "fleet.txt", ["/nowhere"])
    done = fleet("update", file, "--template", ".", "--push")
    assert (done.code, done.output) == (2, "")
    assert done.errors == (
        f"fleet: {ROOT}: services would record a path of this machine; --push needs a URL\n"
    )


@pytest.mark.slow
def test_a_terminal_has_a_bar_and_pipes_have_plain_lines(tmp_path: Path) -> None:
    file = inventory(tmp_path / "fleet.txt", ["/nowhere"])
    terminal, end = os.openpty()
    done = subprocess.run(
        command("update", file),
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "NO_COLOR": ""},
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
        check=False,
    )
    os.close(end)
    drawn = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "0/1" in drawn
    assert "\x1b[" in drawn
    assert done.stdout.startswith("failed   /nowhere  ? -> ?  0 files  git clone: ")
    assert "\x1b" not in done.stdout


def test_the_page_names_everything_and_takes_it_literally() -> None:
    conflict = Result("https://me:secret@host/shop/orders.git", State.CONFLICT, "v1.9.0", "v1.10.0")
    conflict.conflicts, conflict.files, conflict.drift = ["a.py"], ["a.py", "b.py"], ["c.py"]
    failed = Result("/srv/<b>legacy</b>", cause="git clone: <script>alert(1)</script>")
    older = Result("x", State.CLEAN, "v1.2.0", "v1.10.0")
    text = page([failed, conflict, older], datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    assert "secret" not in text
    assert "shop/orders</td><td>v1.9.0 → v1.10.0" in text
    assert "<code>a.py</code>" in text
    assert "<code>c.py</code>" in text
    assert "as of 2026-01-02 03:04 UTC" in text
    assert "<script" not in text
    assert "<b>legacy" not in text
    # What needs people comes first, and versions are no words: 10 comes after 9.
    assert text.index('id="conflict"') < text.index('id="failed"') < text.index('id="clean"')
    assert text.index("<code>v1.9.0") < text.index("<code>v1.2.0") < text.index("<code>unknown")
    assert 'id="broken"' not in text


@pytest.mark.slow
def test_the_report_is_one_page_that_loads_nothing(
    services: list[Service], fleet: Fleet, tmp_path: Path
) -> None:
    chosen = [next(found for found in services if found.conflicts), services[-1]]
    file = inventory(tmp_path / "fleet.txt", [found.repository for found in chosen])
    output = tmp_path / "fleet.html"
    done = fleet("report", file, "--output", output)
    assert done.code == 1
    text = output.read_text("utf-8")
    assert "<code>README.md</code>" in text
    assert "the repository is empty" in text
    assert not re.search(r"https?:|url\(|@import|<link|<script|src=", text)


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_refused_before_the_rehearsal(
    fleet: Fleet, tmp_path: Path
) -> None:
    file = inventory(tmp_path / "fleet.txt", ["/nowhere"])
    for output in (tmp_path, tmp_path / "missing" / "fleet.html"):
        done = fleet("report", file, "--output", output)
        assert (done.code, done.output) == (2, "")
        assert str(output) in done.errors


@pytest.mark.slow
def test_modules_of_a_service_are_not_imported(
    services: list[Service], fleet: Fleet, tmp_path: Path
) -> None:
    """A service may have a folder with the name of something that the fleet needs."""
    service = next(found for found in services if found.state == "clean")
    copy = tmp_path / "service"
    git("clone", "--quiet", service.repository, copy, cwd=tmp_path)
    for name in ("fleet", "copier", "yaml"):
        write(copy / name / "__init__.py", "raise RuntimeError\n")
    commit(copy)
    [result] = fleet("update", inventory(tmp_path / "f.txt", [str(copy)]), "--json").repositories()
    assert result["state"] == "clean", result["cause"]


@pytest.mark.slow
def test_a_migration_runs_only_where_the_template_is_trusted(
    services: list[Service], released: Path, fleet: Fleet, tmp_path: Path
) -> None:
    template = tmp_path / "template"
    git("clone", "--quiet", released, template, cwd=tmp_path)
    append(template / "copier.yml", MIGRATION)
    release(template, "v1000.0.0")
    service = next(found for found in services if found.state == "clean")
    file = inventory(tmp_path / "fleet.txt", [service.repository])
    arguments = ("update", file, "--template", template, "--json")
    [refused] = fleet(*arguments).repositories()
    assert refused["state"] == "failed"
    assert "trust" in refused["cause"]
    [trusted] = fleet(*arguments, "--trust").repositories()
    assert trusted["state"] == "clean", trusted["cause"]
    assert "migrated" in trusted["files"]


MIGRATION = """
_migrations:
  - version: v1000.0.0
    when: "{{ _stage == 'before' }}"
    command: [touch, migrated]
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fleet_leaves_no_process_and_no_folder(
    services: list[Service], tmp_path: Path, number: signal.Signals
) -> None:
    service = next(found for found in services if found.state == "clean")
    file = inventory(tmp_path / "fleet.txt", [service.repository])
    scratch, started = tmp_path / "scratch", tmp_path / "started"
    scratch.mkdir()
    check = f"echo $$ > {started}; sleep 300 & wait"
    running = subprocess.Popen(
        command("update", file, "--check", check),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: started.exists() and started.read_text().strip(), what="the check")
    family = psutil.Process(running.pid)
    wait_until(lambda: len(family.children(recursive=True)) >= 2, what="the check's own process")
    children = family.children(recursive=True)

    running.send_signal(number)
    _, errors = running.communicate(timeout=HANG)

    assert running.returncode == 130
    assert errors == "fleet: interrupted\n"
    assert list(scratch.iterdir()) == []
    _, alive = psutil.wait_procs(children, timeout=HANG)
    assert alive == []
