"""With this folder in PYTHONPATH, Python compiles a module of Ansible's once.

Ansible sends each module as a zip of sources, and Python keeps no bytecode of what it imports from one: half the time
of a short module goes into compiling the same files again. What runs is the same code; only this is saved.
"""

import _imp
import marshal
import os
import sys
import zipimport

ROOT = __file__.rpartition("/tests/")[0]
CACHE = f"{ROOT}/.cache/bytecode/{sys.implementation.cache_tag}"
_compile = zipimport._compile_source


def compile_once(path, source):
    """The code of a source in a zip, from the cache where it has it. Where nothing can be written, it is as ever."""
    name = path.rpartition(".zip")[2]  # below the zip, which has another name each time
    kept = f"{CACHE}/{_imp.source_hash(0, name.encode() + bytes(1) + source).hex()}"
    try:
        with open(kept, "rb") as file:
            return marshal.loads(file.read())
    except OSError:
        code = _compile(path, source)
    try:
        os.makedirs(CACHE, exist_ok=True)
        part = f"{kept}.{os.getpid()}"
        with open(part, "wb") as file:
            file.write(marshal.dumps(code))
        os.replace(part, kept)  # at once: others read it
    except OSError:
        pass
    return code


zipimport._compile_source = compile_once
