# Stand-in for ClickHouse's reader of configurations. Not ClickHouse's: it knows merging, `replace` and `remove`.
"""A configuration file and the folders beside it, as one document."""

import copy
import ipaddress
import socket
import ssl
from pathlib import Path
from xml.etree import ElementTree

MARKS = ("replace", "remove")


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


def server_context(root):
    """The ssl.SSLContext of the listeners. Raises Refused where a file cannot be used."""
    part = root.find("openSSL/server")
    if part is None:
        raise Refused("openSSL.server is not configured, but a secure port is")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _context(part, context, text(part, "verificationMode", "relaxed") == "strict")


def client_context(root):
    """The ssl.SSLContext of connections to other servers."""
    part = root.find("openSSL/client")
    if part is None:
        raise Refused("openSSL.client is not configured, but a secure connection is")
    return _context(part, ssl.create_default_context(), True)


def _context(part, context, required):
    disabled = text(part, "disableProtocols", "")
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if "tlsv1_2" in disabled else ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(text(part, "certificateFile"), text(part, "privateKeyFile"))
        context.load_verify_locations(text(part, "caConfig"))
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
