"""A signed apt repository of packages that hold next to nothing, in a folder.

Below FOLDER: deb/ (the repository, suites lts and stable), key.asc (what signs it), other.asc (a key that does not).
For a machine with dpkg-deb and gpg.
"""

import hashlib
import subprocess

VERSIONS = ("25.8.3.66", "25.8.4.13")
COMMON = "clickhouse-common-static (= {version})"
PACKAGES = {
    "clickhouse-common-static": ("usr/bin/clickhouse", "#!/bin/sh\necho stand-in\n", ""),
    "clickhouse-server": ("etc/clickhouse-server/config.xml", "<clickhouse/>\n", COMMON),
    "clickhouse-client": ("usr/bin/clickhouse-client", "#!/bin/sh\n", COMMON),
}


def gpg(home, *arguments, **options):
    """What gpg prints."""
    return subprocess.run(
        ["gpg", "--homedir", home, "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", *arguments],
        capture_output=True, text=True, check=True, **options,
    ).stdout


def key(home, name, target):
    """Make a key and write its public half to `target`; its fingerprint."""
    gpg(home, "--quick-generate-key", name, "ed25519", "sign", "2d")
    target.write_text(gpg(home, "--armor", "--export", name))
    shown = gpg(home, "--with-colons", "--fingerprint", name)
    return next(line for line in shown.splitlines() if line.startswith("fpr")).split(":")[9]


def package(pool, name, version):
    """Build one package; its paragraph of the index."""
    path, text, needs = PACKAGES[name]
    root = pool / f"{name}-{version}"
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(text)
    (root / path).chmod(0o755)
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: tests <tests@example.invalid>\n"
        + (f"Depends: {needs.format(version=version)}\n" if needs else "") + "Description: stand-in\n"
    )
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(control)
    archive = pool / f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", root, archive], check=True, capture_output=True)
    content = archive.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"{control}Filename: pool/{archive.name}\nSize: {len(content)}\nSHA256: {digest}\n"


def main(folder):
    """Write all of it; {name: fingerprint} of the keys."""
    home, deb = folder / "gnupg", folder / "deb"
    home.mkdir(mode=0o700)
    keys = {name: key(str(home), name, folder / f"{name}.asc") for name in ("key", "other")}
    (deb / "pool").mkdir(parents=True)
    index = "\n".join(package(deb / "pool", name, version) for version in VERSIONS for name in PACKAGES)
    for suite in ("lts", "stable"):
        where = deb / "dists" / suite
        (where / "main/binary-amd64").mkdir(parents=True)
        (where / "main/binary-amd64/Packages").write_text(index)
        release = (
            f"Origin: tests\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(index.encode()).hexdigest()} {len(index.encode())} main/binary-amd64/Packages\n"
        )
        (where / "InRelease").write_text(gpg(str(home), "--local-user", "key", "--clearsign", input=release))
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    return keys
