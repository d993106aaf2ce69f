# -*- coding: utf-8 -*-
# Copyright (c) 2026, FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host names and addresses as a certificate names them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate_names
short_description: Host names and addresses as a certificate names them
version_added: 0.1.0
description:
  - Makes subject alternative names of host names and addresses, each once and sorted.
  - >-
    One name has one form, however it was written: names are in small letters and in their ASCII form, addresses of
    IPv6 compressed, as they are read back from a certificate. So two lists of them can be compared.
author:
  - FrameWorks platform team (@frameworks)
positional: _input
options:
  _input:
    description: Host names and addresses, with or without C(DNS:) or C(IP:) in front.
    type: list
    elements: string
    required: true
"""

EXAMPLES = r"""
# ['DNS:db1.example', 'IP:2001:db8::1']
- name: Show the names
  ansible.builtin.debug:
    msg: "{{ ['DB1.example', '2001:DB8:0:0:0:0:0:1', 'IP:2001:db8::1'] | frameworks.database.certificate_names }}"
"""

RETURN = r"""
_value:
  description: The subject alternative names.
  type: list
  elements: string
"""

import ipaddress
import re


def certificate_name(name):
    """The one form of `name`."""
    bare = re.sub("^(DNS|IP):", "", str(name))
    try:
        # Without its interface, which a certificate does not name.
        return f"IP:{ipaddress.ip_address(bare.partition('%')[0])}"
    except ValueError:
        pass
    try:
        return f"DNS:{(bare if bare.isascii() else bare.encode('idna').decode()).lower()}"
    except UnicodeError:  # not to be put in ASCII: whoever makes the certificate says so
        return f"DNS:{bare}"


class FilterModule:
    """The filters of this file."""

    def filters(self):
        return {"certificate_names": lambda names: sorted({certificate_name(name) for name in names or []})}
