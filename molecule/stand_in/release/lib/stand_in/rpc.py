# Stand-in for YugabyteDB's RPC. Not its protocol: one line of JSON to and fro, over TLS where the flags ask for it.
"""Ask a server and be asked."""

import asyncio
import json
import ssl

TIMEOUT = 5.0


class Failed(Exception):
    """No answer, or the answer is an error; the text says which."""


async def ask(address, question, tls=None, timeout=TIMEOUT):
    """The answer of (host, port) to a dictionary. Raises Failed."""
    host, port = address
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=tls, limit=2**22), timeout)
        writer.write(json.dumps(question).encode() + b"\n")
        line = await asyncio.wait_for(reader.readline(), timeout)
    except (OSError, asyncio.TimeoutError, ssl.SSLError) as error:
        raise Failed(f"Network error: {host}:{port}: {error or 'timed out'}") from None
    finally:
        if writer:
            writer.close()
    if not line:
        raise Failed(f"Network error: {host}:{port}: closed the connection")
    answer = json.loads(line)
    if "error" in answer:
        raise Failed(answer["error"])
    return answer


async def serve(address, handle, tls=None):
    """Listen on (host, port); `await handle(question)` answers with a dictionary or raises Failed."""

    async def talk(reader, writer):
        try:
            while line := await reader.readline():
                try:
                    answer = await handle(json.loads(line))
                except Failed as error:
                    answer = {"error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, ssl.SSLError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(talk, *address, ssl=tls, limit=2**22)


def client_tls(directory):
    """What checks servers against the authority in `directory`; the name in the certificate is not looked at."""
    context = ssl.create_default_context(cafile=f"{directory}/ca.crt")
    context.check_hostname = False
    return context


def server_tls(directory, name):
    """The context of a server whose certificate is node.<name>.crt in `directory`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(f"{directory}/node.{name}.crt", f"{directory}/node.{name}.key")
    return context
