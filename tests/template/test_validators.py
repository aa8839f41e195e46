"""GitHub's workflows, ours and a service's, pass the auditor that the field has for them.

actionlint and Renovate's own validator are not on the package index as they are: the workflow
`validators` of this repository runs them, see CONTRIBUTING.md.
"""

import subprocess
import sys
from pathlib import Path

from tests.template.answers import ROOT
from tests.template.conftest import Render
from tests.template.trees import read_tree

INJECTION = """\
on: pull_request_target
jobs:
  greet:
    runs-on: ubuntu-24.04
    steps:
      - run: echo "${{ github.event.pull_request.title }}"
"""


def audit(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("zizmor"), "--offline", "--no-progress", folder],
        capture_output=True,
        text=True,
        check=False,
    )


def test_workflows_have_no_findings(render: Render) -> None:
    service = render(github=True)
    assert "copier-update.yml" in str(read_tree(service / ".github/workflows").keys())
    for folder in (ROOT / ".github", service / ".github"):
        done = audit(folder)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_auditor_finds_something_where_there_is_something(tmp_path: Path) -> None:
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "greet.yml").write_text(INJECTION)
    done = audit(tmp_path / ".github")
    assert done.returncode != 0
    assert "template-injection" in done.stdout
