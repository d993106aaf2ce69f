# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ClickHouse Keeper as it answers the four-letter commands of ZooKeeper."""

from __future__ import annotations

import contextlib
import socket
import ssl

from ansible.module_utils.common.text.converters import to_text

_NOT_SERVING = "not currently serving"
_LIMIT = 1 << 20  # bytes; mntr answers with a few thousand


def majority(count):
    """How many of `count` Keepers have to serve."""
    return count // 2 + 1


class Unwelcome(OSError):
    """The other side has looked at the client's certificate, which in TLS 1.3 is after the handshake, and hung up."""


class Keeper:
    """One Keeper at one moment. problem: why it does not serve, or empty.

    state: leader, follower, observer or standalone. synced: followers in step with a leader. members: how many a leader
    knows, itself included, whether or not they are up; None where it does not say. version: text.
    """

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.problem, self.state, self.version, self.synced = "", "", "", 0
        self.members = None

    @property
    def serves(self):
        """Whether it is part of the quorum."""
        return not self.problem and self.state != "observer"

    @property
    def leads(self):
        """Whether it is the quorum's leader."""
        return self.state in ("leader", "standalone")

    def summary(self):
        """For a task's result."""
        return {
            "host": self.host, "port": self.port, "problem": self.problem, "state": self.state, "version": self.version,
        }


def tls_context(params):
    """The ssl.SSLContext for `params`: validate_certs, ca_cert, client_cert, client_key.

    Raises ValueError, which names the file; Python's own errors do not.
    """
    files = params.get("ca_cert")
    try:
        context = ssl.create_default_context(cafile=files)
        if params.get("client_cert"):
            files = " with ".join(filter(None, (params["client_cert"], params.get("client_key"))))
            # Without a password it would ask a terminal for one.
            context.load_cert_chain(params["client_cert"], params.get("client_key"), password="")
    except (OSError, ValueError) as error:
        raise ValueError(f"{files} cannot be used: {error.strerror or error}") from None
    if not params.get("validate_certs", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def ask(host, port, command, timeout, context=None):
    """The answer's text to a four-letter command. Raises OSError."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, port), timeout))
        if context:
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=host))
        received = bytearray()
        try:
            connection.sendall(command.encode())
            while len(received) < _LIMIT:
                block = connection.recv(65536)
                if not block:
                    break
                received += block
        except (ssl.SSLError, ConnectionError) as error:
            if not context:
                raise
            raise Unwelcome(getattr(error, "reason", None) or error.strerror or error) from None
    return to_text(bytes(received), errors="replace")


def read_keeper(host, port, timeout=5, context=None):
    """A Keeper; what stands in the way is its `problem`."""
    keeper = Keeper(host, port)
    try:
        answer = ask(host, port, "mntr", timeout, context)
    except ssl.SSLCertVerificationError as error:
        keeper.problem = f"the certificate on port {port} is not accepted: {error.verify_message or error}"
    except ssl.SSLError as error:
        keeper.problem = f"no TLS handshake on port {port} ({error.reason or error}): is this its TLS port?"
    except Unwelcome as error:
        keeper.problem = (
            f"it ends the connection on port {port} after the handshake ({error}): has the certificate that is shown "
            "to it expired, or was it signed by an authority that the Keeper does not trust?"
        )
    except socket.timeout:
        keeper.problem = f"no answer on port {port} within {timeout} s{'' if context else ': does it speak TLS?'}"
    except ConnectionRefusedError:
        keeper.problem = f"nothing listens on port {port}"
    except ConnectionResetError:
        keeper.problem = f"it ends the connection on port {port}: is this its {'TLS' if context else 'plain'} port?"
    except OSError as error:
        keeper.problem = f"port {port} cannot be reached: {error.strerror or error}"
    else:
        _understand(keeper, answer)
    return keeper


def _understand(keeper, answer):
    facts = dict(line.split("\t", 1) for line in answer.splitlines() if "\t" in line)
    if _NOT_SERVING in answer:
        keeper.problem = "it runs, but is not part of a quorum"
    elif "zk_server_state" not in facts:
        said = answer.strip().splitlines()[0][:100] if answer.strip() else "nothing"
        keeper.problem = (
            f"what listens on port {keeper.port} does not answer mntr like a Keeper ({said!r}); is mntr in its "
            "four_letter_word_white_list?"
        )
    else:
        keeper.state = facts["zk_server_state"].strip()
        keeper.version = facts.get("zk_version", "").split("-", 1)[0].lstrip("v")
        with contextlib.suppress(ValueError):
            keeper.synced = int(float(facts.get("zk_synced_followers", "0")))
            keeper.members = int(float(facts["zk_followers"])) + 1 if "zk_followers" in facts else None
