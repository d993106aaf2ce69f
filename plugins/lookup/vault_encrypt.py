# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text encrypted with the vault password of the running ansible-playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vault_encrypt
short_description: Text encrypted with the vault password of the running ansible-playbook
version_added: 0.1.0
author: FrameWorks platform team (@frameworks)
description:
  - Encrypts each text as C(ansible-vault encrypt) would, with the vault password that ansible-playbook was given, by
    whatever way. The filter P(ansible.builtin.vault#filter) needs the password itself, which playbooks do not see.
  - M(ansible.builtin.copy) decrypts what it writes unless it is given C(decrypt=false).
  - Of several passwords it takes the one whose vault ID is C(ANSIBLE_VAULT_ENCRYPT_IDENTITY), as C(ansible-vault) does.
options:
  _terms:
    description: Texts.
    type: list
    elements: str
    required: true
  like:
    description: >-
      An encrypted file. Where it is there, its own password and vault ID are taken, as C(ansible-vault edit) does.
    type: path
"""

EXAMPLES = r"""
- name: Write an encrypted file
  ansible.builtin.copy:
    content: "{{ lookup('frameworks.database.vault_encrypt', secrets | to_nice_yaml, like='prod/vault.yml') }}"
    dest: prod/vault.yml
    mode: "0600"
    decrypt: false
"""

RETURN = r"""
_raw:
  description: The encrypted texts.
  type: list
  elements: str
"""

import os

from ansible import constants
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.parsing.vault import VaultLib, match_encrypt_secret
from ansible.plugins.lookup import LookupBase

from ..plugin_utils.vault import vault_secrets

NONE = (
    "There is no vault password to encrypt with: use --ask-vault-pass, --vault-password-file or "
    "ANSIBLE_VAULT_PASSWORD_FILE."
)
SEVERAL = (
    "There are several vault passwords ({}): give one alone, or set ANSIBLE_VAULT_ENCRYPT_IDENTITY to its vault ID."
)


def chosen(secrets, like):
    """(vault ID, VaultSecret) to encrypt with; AnsibleError where that is not clear."""
    if like and os.path.exists(like):
        with open(like, "rb") as file:
            return VaultLib(secrets).decrypt_and_get_vault_id(file.read())[1:]
    if not secrets:
        raise AnsibleError(NONE)
    wanted = constants.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
    if not wanted and len({secret.bytes for _vault_id, secret in secrets}) > 1:
        raise AnsibleError(SEVERAL.format(", ".join(vault_id for vault_id, _secret in secrets)))
    return match_encrypt_secret(secrets, wanted)


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        """The encrypted texts; AnsibleLookupError where no vault password is the one to encrypt with."""
        self.set_options(var_options=variables, direct=kwargs)
        secrets = vault_secrets()
        try:
            vault_id, secret = chosen(secrets, self.get_option("like"))
        except AnsibleError as error:
            raise AnsibleLookupError(str(error)) from None
        return [VaultLib(secrets).encrypt(term, secret=secret, vault_id=vault_id).decode() for term in terms]
