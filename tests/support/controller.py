"""A process that has imported ansible-playbook: python controller.py; run_playbook() of support.playbooks talks to it.

What starts is what ansible-playbook starts, in a process of its own; only the import of Ansible, a third of a second,
is done once. Reads a line of JSON for each run: [folder, arguments, environment, file of the output]; answers with its
exit status. Ends with its standard input.
"""

import json
import os
import sys
import time

from ansible.cli.playbook import PlaybookCLI


def become(folder, arguments, environment, output):
    """Be ansible-playbook, in a process that was forked for it. Never returns."""
    code = 250  # Ansible's own for what it did not expect
    try:
        for target, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY)):
            os.dup2(os.open(path, flags), target)
        os.dup2(1, 2)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        sys.argv = arguments
        PlaybookCLI.cli_executor(arguments)
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
