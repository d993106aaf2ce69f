# Stand-in for ClickHouse's reader of configurations. Not ClickHouse's: it knows merging, `replace` and `remove`.
"""A configuration file and the folders beside it, as one document."""

import copy
import ipaddress
import socket
import ssl
from pathlib import Path
from xml.etree import ElementTree

MARKS = ("replace", "remove")
# Of the release that this process was started from.
VERSION_FILE = Path(__file__).resolve().parents[3] / "version"


def version():
    return VERSION_FILE.read_text().strip()


class Refused(Exception):
    """The configuration cannot be used; the text is what the server would log."""


def _key(element):
    return element.tag, tuple(sorted(item for item in element.attrib.items() if item[0] not in MARKS))


def _merge(target, source):
    for new in source:
        same = [one for one in target if _key(one) == _key(new)]
        if "remove" in new.attrib:
            for one in same:
                target.remove(one)
        elif "replace" in new.attrib or not same:
            for one in same:
                target.remove(one)
            target.append(copy.deepcopy(new))
        elif len(new):
            _merge(same[0], new)
        elif len(same) == 1 and not len(same[0]):
            same[0].text = new.text
        else:
            target.append(copy.deepcopy(new))


def load(path):
    """The merged document's root. Raises Refused."""
    path = Path(path)
    folders = [path.with_suffix(".d"), path.parent / "conf.d"]
    files = [path] + [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.xml"))]
    root = None
    for file in files:
        try:
            document = ElementTree.parse(file).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise Refused(f"Failed to merge config with '{file}': {error}") from None
        if document.tag not in ("clickhouse", "yandex"):
            raise Refused(f"Root element doesn't have the corresponding root element as the config file: {file}")
        if root is None:
            root = ElementTree.Element("clickhouse")
        _merge(root, document)
    return root


def text(root, path, default=None):
    """The text of an element, or the default."""
    found = root.find(path)
    return default if found is None or found.text is None else found.text.strip()


def hosts(root):
    """The addresses to listen on."""
    return [one.text.strip() for one in root.findall("listen_host")] or ["127.0.0.1", "::1"]


class Tls:
    """A process's TLS, as 25.8 has it: authorities are those of its start, certificates are read when they change.

    What Keepers speak to each other keeps its certificate too: `fixed`.
    """

    def __init__(self, root):
        self.parts, self.trust, self.made = {}, {}, {}
        for name in ("server", "client"):
            self.parts[name] = part = root.find(f"openSSL/{name}")
            if part is not None:
                try:
                    self.trust[name] = Path(text(part, "caConfig")).read_text()
                except (OSError, TypeError) as error:
                    raise Refused(f"Cannot use caConfig: {error}") from None
        self.fixed = {name: self._context(name) for name in self.trust}

    def server(self):
        """The ssl.SSLContext of the listeners. Raises Refused where a file cannot be used."""
        return self._present("server")

    def client(self):
        """The ssl.SSLContext of connections to other servers."""
        return self._present("client")

    def _present(self, name):
        if self.parts[name] is None:
            raise Refused(f"openSSL.{name} is not configured, but a secure port or connection is")
        files = [Path(text(self.parts[name], one)) for one in ("certificateFile", "privateKeyFile")]
        try:
            stamp = [file.stat().st_mtime_ns for file in files]
            if self.made.get(name, (None,))[0] != stamp:
                self.made[name] = stamp, self._context(name)
        except (OSError, Refused):
            # Key and certificate come one after the other: until they fit, the server keeps what it has.
            return self.made[name][1] if name in self.made else self.fixed[name]
        return self.made[name][1]

    def _context(self, name):
        part = self.parts[name]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if name == "server" else ssl.create_default_context()
        required = name == "client" or text(part, "verificationMode", "relaxed") == "strict"
        disabled = text(part, "disableProtocols", "")
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if "tlsv1_2" in disabled else ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(text(part, "certificateFile"), text(part, "privateKeyFile"))
            context.load_verify_locations(cadata=self.trust[name])
        except (OSError, ssl.SSLError, TypeError) as error:
            raise Refused(f"Cannot use {text(part, 'certificateFile')}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_NONE
        return context


def admits(networks, address):
    """Whether <networks> lets a client from `address` in."""
    address = ipaddress.ip_address(address.removeprefix("::ffff:"))
    for one in networks if networks is not None else ():
        if one.tag == "ip" and address in ipaddress.ip_network(one.text.strip(), strict=False):
            return True
        if one.tag == "host":
            try:
                found = {entry[4][0] for entry in socket.getaddrinfo(one.text.strip(), None)}
            except OSError:
                continue
            if str(address) in found:
                return True
    return False
