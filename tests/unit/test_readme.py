"""What the README shows has to be what the inventory and the playbooks are."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PLACES = ("README.md", "inventories/README.md", "docs/*.md", "roles/*/README.md")
DOCUMENTS = [path for place in PLACES for path in ROOT.glob(place)]
PICTURE = README.split("```mermaid")[1].split("```")[0]
PROD = yaml.safe_load((ROOT / "inventories/prod/hosts.yml").read_text())


def test_the_picture_has_every_host_of_prod_in_its_zone():
    hosts = {name.split(".")[0]: variables or {}
             for group in PROD.values() for name, variables in group.get("hosts", {}).items()}
    assert set(hosts) == set(re.findall(r"\b(?:app|db|analytics|keeper)\d\b", PICTURE))
    for name, variables in hosts.items():
        zone = variables.get("yugabyte_db_zone") or variables.get("clickhouse_db_zone")
        if zone:
            assert f'{name}["{name}, {zone.replace("-", " ")}' in PICTURE
    for shard in {variables.get("clickhouse_db_shard") for variables in hosts.values()} - {None}:
        inside = PICTURE.split(f'subgraph shard{shard}[')[1].split("end")[0]
        assert set(re.findall(r"analytics\d", inside)) == {
            name for name, variables in hosts.items() if variables.get("clickhouse_db_shard") == shard
        }


def test_every_playbook_and_role_that_is_named_is_there():
    made = "inventories/prod/group_vars/prod/vault.yml"
    for name in set(re.findall(r"(?<![\w/])([\w/]+\.yml)\b", README)) - {"galaxy.yml", "requirements.yml", made}:
        assert (ROOT / ("" if "/" in name else "playbooks") / name).exists(), name
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    assert set(re.findall(r"\]\(roles/([a-z_]+)/README.md\)", README)) == roles


def test_every_playbook_is_named():
    named = set(re.findall(r"(\w+)\.yml\b", README))
    assert not {path.stem for path in (ROOT / "playbooks").glob("*.yml")} - named


def test_every_playbook_says_in_its_first_lines_how_it_is_called():
    for path in (ROOT / "playbooks").glob("*.yml"):
        comment = path.read_text().split("\n- ")[0]
        assert f"ansible-playbook playbooks/{path.name}" in comment or path.stem == "environment", path.name


def test_every_variable_that_is_named_is_a_role_s():
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    there = {"yugabyte_db_entry", *(path.stem for path in (ROOT / "plugins").rglob("*.py"))}  # a fact, and the modules
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        for spec in yaml.safe_load(path.read_text())["argument_specs"].values():
            there |= set(spec.get("options", {}))
    for document in DOCUMENTS:
        named = re.findall(rf"\b(?:{'|'.join(roles)})_[a-z]\w*[a-z0-9](?![\w*])", document.read_text())
        assert not set(named) - there, document.name


def test_every_heading_that_is_linked_to_is_there():
    for document in DOCUMENTS:
        for path, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
            text = (document.parent / path if path else document).read_text()
            headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
                        for line in re.findall(r"^#+ (.*)$", text, re.M)}
            assert heading in headings, f"{document.name}: {path}#{heading}"


def test_links_of_packed_documents_lead_to_what_is_packed():
    """galaxy.yml leaves folders out; what is only in the repository is said without a link."""
    left_out = tuple(str(ROOT / name) for name in yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"])
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            target = (document.parent / link).resolve()
            assert target.exists() and not str(target).startswith(left_out), f"{document.name}: {link}"
