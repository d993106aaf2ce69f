# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vault passwords that the controller was given."""

from __future__ import annotations

from ansible.parsing.vault import VaultSecretsContext


def vault_secrets():
    """[(vault ID, VaultSecret)] in the order in which they are tried; empty where there are none."""
    return VaultSecretsContext.current().secrets or []
