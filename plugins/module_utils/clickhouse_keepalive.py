# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One HTTP connection for many requests, in the place of ansible.module_utils.urls.Request."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error

IDLE = 2.0  # seconds after which a connection is not used again: the server may close it at any moment
SMALL = 1 << 16  # bytes of a request that are sent at once
CONNECT = 10.0  # seconds; statements may take longer, reaching the server does not


class _AtOnce:
    """For a connection of http.client, which sends header and body of a request one after the other: as one."""

    _parts = None

    def send(self, data):
        """Keep what belongs to the same request as what follows."""
        if self._parts is None or len(data) > SMALL:
            self.flush()
            super().send(data)
        else:
            self._parts.append(data)

    def flush(self):
        """Send what was kept."""
        parts, self._parts = self._parts, None
        if parts:
            super().send(b"".join(parts))

    def request(self, *arguments):
        """As there."""
        self._parts = []
        super().request(*arguments)
        self.flush()


class _Http(_AtOnce, http.client.HTTPConnection):
    pass


class _Https(_AtOnce, http.client.HTTPSConnection):
    pass


class KeepAlive:
    """Requests to host:port, one at a time; `context` (ssl.SSLContext) for HTTPS, None for HTTP.

    A request that fails is never sent a second time: the server may have executed it.
    """

    def __init__(self, host, port, timeout, context=None):
        self._host, self._port, self._timeout, self._context = host, port, timeout, context
        self._connection, self._used, self._idle = None, 0.0, IDLE

    def _connect(self):
        timeout = min(CONNECT, self._timeout)
        if self._context:
            connection = _Https(self._host, self._port, timeout=timeout, context=self._context)
        else:
            connection = _Http(self._host, self._port, timeout=timeout)
        connection.connect()
        connection.sock.settimeout(self._timeout)
        return connection

    def open(self, method, url, data=None, headers=None):
        """Like Request.open(): the answer, urllib.error.HTTPError where its status is an error's, or URLError."""
        try:
            answer = self._answer(method, url, data, headers)
        except OSError as error:
            raise urllib.error.URLError(error) from error  # as there: an SSLError's own `reason` is something else
        if answer.status >= 300:
            raise urllib.error.HTTPError(url, answer.status, answer.reason, answer.headers, answer)
        return answer

    def _answer(self, method, url, data, headers):
        if self._connection is not None and time.monotonic() - self._used > self._idle:
            self.close()
        fresh = self._connection is None
        connection, self._connection = self._connection or self._connect(), None
        try:
            _scheme, _none, _host, path = url.split("/", 3)
            connection.request(method, f"/{path}", data, headers)
            answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        if fresh:
            limit = re.search(r"timeout=(\d+)", answer.headers.get("Keep-Alive", ""))
            self._idle = min(IDLE, int(limit.group(1)) / 2) if limit else IDLE
        # Only after the answer has been read to its end is the connection free, and http.client knows whether it lasts.
        self._connection, self._used = connection, time.monotonic()
        return answer

    def close(self):
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
