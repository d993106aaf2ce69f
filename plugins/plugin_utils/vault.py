# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vault passwords that the controller was given."""

from __future__ import annotations

try:
    from ansible.parsing.vault import VaultSecretsContext
except ImportError:  # ansible-core before 2.19
    VaultSecretsContext = None


def vault_secrets(loader):
    """[(vault ID, VaultSecret)] in the order in which they are tried; empty where there are none.

    loader: a plugin's DataLoader, which is all that knows them outside of the command line's own code.
    """
    return (VaultSecretsContext.current().secrets if VaultSecretsContext else loader._vault.secrets) or []
