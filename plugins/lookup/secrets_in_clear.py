# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in which a password stands in clear."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secrets_in_clear
short_description: Files in which a password stands in clear
version_added: 0.1.0
author: FrameWorks platform team (@frameworks)
description:
  - Reads every file below a directory, be it YAML, JSON, INI or a shell's, and names those that give a password, a
    passphrase or a secret a value that is neither encrypted nor made of variables.
  - What is encrypted with ansible-vault, whole files as well as single values, is no such file. Comments are not read.
options:
  _terms:
    description: Directories.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: No secret lies about in clear
  ansible.builtin.assert:
    that: query('frameworks.database.secrets_in_clear', inventory_dir) | length == 0
"""

RETURN = r"""
_raw:
  description: The files' paths, sorted.
  type: list
  elements: path
"""

import os
import re

from ansible.plugins.lookup import LookupBase

# Quoted text is matched first, as a # in it begins no comment.
COMMENT = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'[^'\n]*')|(?:^|(?<=\s))#[^\n]*|^[ \t]*;[^\n]*""", re.M)
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}")
SECRET = re.compile(r"""
    (?: ^ | (?<=[\s{,-]) ) ["']?
    (?! \w* update_password \b )                # when a password is set, and no password
    \w* (?: password | passphrase | secret | _pass ) ["']? [ \t]*
    (?:
        : [ \t]* (?: [|>] [-+\d]* [ \t]* \n \s* )?                        # YAML and JSON; its text may be below
            (?: ["'] (?! \{[{%] ) [^"'\n] | (?! !vault \b ) [^\s"'{}\[*,|>] )
        | = [ \t]* ["']? (?! \{[{%] ) [^\s"'=]                              # INI and shells
    )
""", re.I | re.M | re.X)


def in_clear(text):
    """Whether a password stands in `text` in clear."""
    text = COMMENT.sub(lambda found: found[1] or "", text)
    # A variable's own names, and what a lookup is told, are in no place of a password.
    return SECRET.search(EXPRESSION.sub("{{}}", text)) is not None


def files(directory):
    """The paths of all files below it; a link that leads nowhere is none."""
    for folder, _folders, names in os.walk(directory):
        yield from filter(os.path.isfile, (os.path.join(folder, name) for name in names))


def read(path):
    """The file's text, whatever it is."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        """The paths of the files."""
        self.set_options(var_options=variables, direct=kwargs)
        return sorted(path for directory in terms for path in files(directory) if in_clear(read(path)))
