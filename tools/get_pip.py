"""What ansible-test downloads to put pip into its virtual environments, without the download: Python brings a pip."""

import os
import subprocess
import sys

# quiet_pip.py of ansible-test runs this file with pip's options and the packages' names as arguments.
options = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
# In a process of its own: ensurepip switches pip's configuration off in the environment it runs in.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
os.execv(sys.executable, [sys.executable, "-m", "pip", "install", *options])
