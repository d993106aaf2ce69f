"""What `ansible-galaxy collection build` packs."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("ansible-galaxy")


def test_an_environment_s_secrets_and_authorities_are_not_packed(tmp_path):
    """They lie in the checkout of whoever builds; encrypted or not, they are nobody else's."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("galaxy.yml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("meta", "inventories"):
        shutil.copytree(ROOT / name, checkout / name)
    private = ["vault.yml", "pki/ca.key", "pki/ca.crt", "pki/clickhouse/ca.key", "pki/clickhouse-2/ca.key"]
    for name in private:
        path = checkout / "inventories/prod/group_vars/prod" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not for others")
    command = [PROGRAM, "collection", "build", "--output-path", tmp_path, checkout]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        files = [member.name for member in packed if member.isfile()]
    assert "inventories/prod/group_vars/prod/main.yml" in files
    assert not [name for name in files if "vault" in name or "ca." in name]
