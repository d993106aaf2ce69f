"""What `ansible-galaxy collection build` packs, and how the README installs it."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from ansible.release import __version__

ROOT = Path(__file__).parents[2]
COLLECTION = "ansible_collections/frameworks/database"
OURS = "inventories/prod/group_vars/prod"
PRIVATE = [
    *(f"{OURS}/{name}" for name in ("vault.yml", "pki/ca.key", "pki/clickhouse/ca.key", "pki/clickhouse-2/ca.key")),
    ".vault_password", "inventories/prod/.vault_password", ".venv-old/bin/python", ".env", "roles/x/node_modules/x.so",
]


@pytest.fixture
def run(tmp_path):
    """A function that runs a script in a checkout of what is needed, for somebody whose home is empty."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("galaxy.yml", "README.md", "LICENSE", "ansible.cfg"):
        shutil.copy(ROOT / name, checkout)
    for name in ("meta", "inventories", "collections"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in PRIVATE:
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not for others")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PATH": path}
    environment.pop("ANSIBLE_CONFIG", None)
    return lambda script: subprocess.run(
        ["bash", "-euc", script], cwd=checkout, env=environment, check=True, capture_output=True, text=True
    )


def test_secrets_and_tools_are_not_packed(run, tmp_path):
    """They lie in the checkout of whoever builds; encrypted or not, they are nobody else's."""
    run("ansible-galaxy collection build --output-path ..")
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        files = {member.name for member in packed if member.isfile()}
    assert f"{OURS}/main.yml" in files
    assert not files & set(PRIVATE)


def test_the_readme_s_commands_install_it(run, tmp_path):
    """In the checkout, which ansible.cfg puts first, there would be nothing to do."""
    blocks = re.findall("```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    block = next(one for one in blocks if "galaxy" in one)
    run(re.sub("^ansible-playbook.*", "", block, flags=re.M))
    assert (tmp_path / "home/.ansible/collections" / COLLECTION / "MANIFEST.json").is_file()
    assert f"-i ~/.ansible/collections/{COLLECTION}/inventories/dev" in block


def test_the_oldest_ansible_that_is_promised_is_the_one_that_is_tested():
    """Of older ones the promise was never kept: with 2.17 no environment's secrets could be made."""
    promised = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"]
    for path in (ROOT / "roles").glob("*/meta/main.yml"):
        minimum = yaml.safe_load(path.read_text())["galaxy_info"]["min_ansible_version"]
        assert promised.startswith(f">={minimum}.") and __version__.startswith(f"{minimum}."), path
