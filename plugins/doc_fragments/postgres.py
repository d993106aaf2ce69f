# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The login options of every module that talks to PostgreSQL; plugins/module_utils/postgres.py has the spec."""

    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the server, as the managed host sees it.
    type: str
    default: localhost
  login_port:
    description:
      - Port of the server. YugabyteDB's YSQL listens on 5433.
    type: int
    default: 5432
  login_user:
    description:
      - User to log in as. YugabyteDB's superuser is V(yugabyte).
    type: str
    default: postgres
  login_password:
    description:
      - Password of O(login_user).
    type: str
  login_unix_socket:
    description:
      - Directory of the server's socket, used instead of O(login_host).
    type: path
  login_db:
    description:
      - Database to log in to for everything that concerns the whole server.
    type: str
    default: postgres
  ssl_mode:
    description:
      - Whether TLS is used, and whether the server's certificate is checked; the words are libpq's.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  ca_cert:
    description:
      - File with the certificates of the authorities that are trusted, on the managed host.
    type: path
  ssl_cert:
    description:
      - File with the client's certificate, on the managed host.
    type: path
  ssl_key:
    description:
      - File with the key of O(ssl_cert), on the managed host.
    type: path
  connect_timeout:
    description:
      - Seconds to wait for a connection.
    type: int
    default: 10
requirements:
  - psycopg2 (2.8 or newer) for the Python interpreter of the managed host
"""
