# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The login options of every module that talks to ClickHouse; plugins/module_utils/clickhouse.py has the spec."""

    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the ClickHouse server, as the managed host sees it.
    type: str
    default: localhost
  login_port:
    description:
      - Port of the server's HTTP interface, not of its native protocol.
      - Defaults to 8123, or to 8443 with O(tls=true).
    type: int
  login_user:
    description:
      - User to log in as.
    type: str
    default: default
  login_password:
    description:
      - Password of O(login_user). It is sent in a header, never in a URL.
    type: str
  tls:
    description:
      - Speak HTTPS.
    type: bool
    default: false
  validate_certs:
    description:
      - Whether the server's certificate must be valid for O(login_host). Used with O(tls=true).
    type: bool
    default: true
  ca_cert:
    description:
      - File with the certificates of the authorities that are trusted, on the managed host.
      - Defaults to the system's.
    type: path
  client_cert:
    description:
      - File with the client's certificate, and its key unless O(client_key) names one, on the managed host.
    type: path
  client_key:
    description:
      - File with the key of O(client_cert), on the managed host.
    type: path
  use_proxy:
    description:
      - Whether the proxy variables of the environment are used. Databases are rarely behind one.
    type: bool
    default: false
  timeout:
    description:
      - Seconds to wait for the connection and for each answer.
    type: int
    default: 60
"""
