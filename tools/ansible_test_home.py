"""ansible_test_home.py HOME: a home directory for ansible-test in which it can install its requirements anywhere.

It wants to fetch a script that puts pip into virtual environments (get_pip.py does without the network), and it
starts pip in an empty environment, so this machine's settings of pip go into a file there.
"""

import argparse
import ast
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ansible_test


def pip_settings():
    """The settings of pip on this machine, of files and environment, as {name: value}."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = (line.partition("=") for line in listed.splitlines())
    return {key.rpartition(".")[2]: ast.literal_eval(value) for key, _, value in lines if value}


def main(home):
    """Write what ansible-test looks for below `home`, a Path."""
    requirements = Path(ansible_test.__path__[0]) / "_internal/python_requirements.py"
    version = re.search(r"\bpip='([0-9.]+)'", requirements.read_text())[1].replace(".", "_")
    script = home / f".ansible/test/cache/get_pip_{version}.py"
    settings = home / ".config/pip/pip.conf"
    for path in (script, settings):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("get_pip.py"), script)
    config = configparser.RawConfigParser()
    config["global"] = {"cache-dir": str(Path.home() / ".cache/pip"), **pip_settings()}
    with settings.open("w") as file:
        config.write(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    main(parser.parse_args().home)
