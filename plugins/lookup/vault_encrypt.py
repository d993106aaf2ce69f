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
options:
  _terms:
    description: Texts.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Write an encrypted file
  ansible.builtin.copy:
    content: "{{ lookup('frameworks.database.vault_encrypt', secrets | to_nice_yaml) }}"
    dest: group_vars/prod/vault.yml
    mode: "0600"
    decrypt: false
"""

RETURN = r"""
_raw:
  description: The encrypted texts.
  type: list
  elements: str
"""

from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.parsing.vault import VaultLib, match_encrypt_secret
from ansible.plugins.lookup import LookupBase

from ..plugin_utils.vault import vault_secrets


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms, variables=None, **kwargs):
        """The encrypted texts; AnsibleLookupError where there is no vault password."""
        self.set_options(var_options=variables, direct=kwargs)
        secrets = vault_secrets(self._loader)
        try:
            if not secrets:
                raise AnsibleError("none")
            match_encrypt_secret(secrets)
        except AnsibleError:
            raise AnsibleLookupError(
                "There is no vault password to encrypt with: use --ask-vault-pass, --vault-password-file or "
                "ANSIBLE_VAULT_PASSWORD_FILE."
            ) from None
        vault = VaultLib(secrets)
        chosen = match_encrypt_secret(secrets)
        return [vault.encrypt(term, secret=chosen[1], vault_id=chosen[0]).decode() for term in terms]
