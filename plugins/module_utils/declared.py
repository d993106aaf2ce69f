# Copyright: FrameWorks platform team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declared lists of dictionaries: refusals that name the item, the key and the likely spelling."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import DEFAULT_TYPE_VALIDATORS


class DeclarationModule(AnsibleModule):
    """AnsibleModule that says `users[1]: unknown key 'pasword', did you mean 'password'?` where the original
    says that a parameter is not supported, and that masks the value of such a key."""

    _validated = False

    def __init__(self, argument_spec, **kwargs):
        super().__init__(argument_spec, **kwargs)
        self._validated = True

    def _load_params(self):
        super()._load_params()
        # The original's validation drops what it cannot convert.
        self._given = {key: value for key, value in self.params.items() if not key.startswith("_ansible")}

    def fail_json(self, msg, **kwargs):
        if not self._validated:
            faults, secrets = find_faults(self.argument_spec, self._given)
            self.no_log_values.update(secrets)
            msg = "; ".join(faults) or msg
        super().fail_json(msg, **kwargs)


def did_you_mean(word, known):
    """`, did you mean 'x'?` with the word of `known` that is most like `word`, or an empty string."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), lower, n=1)
    return f", did you mean {lower[close[0]]!r}?" if close else ""


def find_faults(spec, params, where=""):
    """What is wrong with `params` by the argument spec `spec`.

    Returns a list of sentences, each beginning with the path of the item such as `users[1]`, and the set of values
    that may be secrets: those of no_log options and those of unknown keys that stand for no other option.
    """
    names = {alias: name for name, option in spec.items() for alias in (name, *option.get("aliases", ()))}
    faults, secrets = [], set()
    for key, value in params.items():
        if key not in names:
            hint = did_you_mean(key, names)
            faults.append(f"{where or 'options'}: unknown key {key!r}{hint} (known: {', '.join(sorted(spec))})")
            if not hint or any(option.get("no_log") for name, option in spec.items() if f"{name!r}" in hint):
                secrets |= _texts(value)
            continue
        path = f"{where}.{key}" if where else key
        found, hidden = _value_faults(spec[names[key]], value, path)
        faults += found
        secrets |= hidden
    for name, option in spec.items():
        if option.get("required") and all(params.get(key) is None for key in (name, *option.get("aliases", ()))):
            faults.append(f"{where or 'options'}: the key {name!r} is missing")
    return faults, secrets


def _value_faults(option, value, path):
    if value is None:
        return [], set()
    if option.get("no_log"):
        return [], _texts(value)
    kind = option.get("type", "str")
    try:
        value = DEFAULT_TYPE_VALIDATORS[kind](value)
    except (TypeError, ValueError):
        if kind in ("list", "dict"):
            return [f"{path}: must be a {kind}, not {type(value).__name__}"], _texts(value)
        return [f"{path}: {value!r} is not of the type {kind}"], set()
    if kind != "list" or not option.get("elements"):
        return _choice_faults(option, [value], path), set()
    faults, secrets = [], set()
    for index, element in enumerate(value):
        if option["elements"] != "dict":
            faults += _choice_faults(option, [element], path)
        elif not isinstance(element, Mapping):
            faults.append(f"{path}[{index}]: must be a dictionary of keys and values, not {type(element).__name__}")
            secrets |= _texts(element)
        elif option.get("options"):
            found, hidden = find_faults(option["options"], element, f"{path}[{index}]")
            faults += found
            secrets |= hidden
    return faults, secrets


def _choice_faults(option, values, path):
    choices = option.get("choices")
    return [
        f"{path}: {value!r} is none of {', '.join(map(str, choices))}{did_you_mean(value, choices)}"
        for value in values if choices and value not in choices
    ]


def _texts(value):
    """Every string inside a value."""
    if isinstance(value, str):
        return {value} if value else set()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return set().union(*map(_texts, parts)) if parts else set()
