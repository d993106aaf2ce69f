# Stand-in for ClickHouse's storage of users. Not ClickHouse's: it knows the statements that clickhouse_access writes.
"""Users, roles and profiles as the statements that made them, and who they let in."""

import hashlib
import re

_NAME = r"(?:`(?:[^`\\]|\\.)*`|\w+)"
_STATEMENTS = (
    ("user", re.compile(rf"(CREATE|ALTER) USER (?:IF NOT EXISTS )?({_NAME}) ?(.*)", re.S)),
    ("role", re.compile(rf"(CREATE) ROLE (?:IF NOT EXISTS )?({_NAME})(.*)", re.S)),
    ("profile", re.compile(rf"(CREATE|ALTER) SETTINGS PROFILE (?:IF NOT EXISTS )?({_NAME}) SETTINGS (.*)", re.S)),
    ("drop", re.compile(rf"DROP (USER|ROLE|SETTINGS PROFILE) (?:IF EXISTS )?({_NAME})(.*)", re.S)),
    ("rights", re.compile(rf"(GRANT|REVOKE) (.*) (?:TO|FROM) ({_NAME})((?: WITH \w+ OPTION)?)$", re.S)),
)
_WORD = re.compile(
    r"\s*(CREATE|ALTER|DROP)\s+(USER|ROLE|SETTINGS\s+PROFILE|QUOTA|ROW\s+POLICY)\b|\s*(GRANT|REVOKE)\b", re.I
)
_HASH = re.compile(r"sha256_hash BY '([0-9a-f]+)' SALT '([0-9a-f]*)'")
_SETTING = re.compile(r"(\w+) = '([^']*)'")


def is_about_access(sql):
    """Whether a statement changes users or rights."""
    return bool(_WORD.match(sql))


def _name(text):
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith("`") else text


class Access:
    """What the statements so far have made."""

    def __init__(self):
        # name: {"methods": [(hash, salt)], "grants": [statement], "profile": name, "database": name}
        self.users, self.roles, self.profiles = {}, {}, {}

    def apply(self, sql):
        """Take one statement in. Raises ValueError for one that this stand-in does not know."""
        for kind, pattern in _STATEMENTS:
            found = pattern.fullmatch(sql.strip())
            if found:
                getattr(self, f"_{kind}")(*found.groups())
                return
        raise ValueError(f"the stand-in does not know this statement: {sql[:80]}")

    def _user(self, _verb, name, rest):
        user = self.users.setdefault(
            _name(name), {"methods": [], "grants": [], "profile": "default", "database": ""}
        )
        user["methods"] = _HASH.findall(rest) or user["methods"]
        database = re.search(rf"DEFAULT DATABASE ({_NAME})", rest)
        profile = re.search(rf"SETTINGS PROFILE ({_NAME})", rest)
        user["database"] = _name(database.group(1)) if database else user["database"]
        user["profile"] = _name(profile.group(1)) if profile else user["profile"]

    def _role(self, _verb, name, _rest):
        self.roles.setdefault(_name(name), {"grants": []})

    def _profile(self, _verb, name, rest):
        self.profiles[_name(name)] = dict(_SETTING.findall(rest))

    def _drop(self, kind, name, _rest):
        {"USER": self.users, "ROLE": self.roles, "SETTINGS PROFILE": self.profiles}[kind].pop(_name(name), None)

    def _rights(self, verb, rights, name, option):
        holder = self.users.get(_name(name)) or self.roles.get(_name(name))
        if holder is None:
            raise ValueError(f"There is no user or role {name}")
        holder["grants"].append(f"{verb} {rights}{option}")

    def admits(self, name, password):
        """Whether a password is one of the user's; None where there is no such user."""
        user = self.users.get(name)
        if user is None:
            return None
        return any(hashlib.sha256((password + salt).encode()).hexdigest() == digest for digest, salt in user["methods"])
