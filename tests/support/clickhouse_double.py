"""A double of the writable access storage that the embedded ClickHouse lacks, in front of the real engine.

Statements on users, roles, quotas, profiles and policies are parsed by the real engine (formatQuery) and then kept
here, as the server's system tables would show them. What rights follow from a series of GRANT and REVOKE is asked of a
real engine, which gets them in its users.xml. Everything else goes to the real engine as it is.
"""

import base64
import hashlib
import json
import re
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from .clickhouse import ADMIN, ADMIN_PASSWORD, HERE, ClickHouseServer, user_xml

NAME = r"`(?:[^`\\]|\\.)*`"
TEXT = r"'(?:[^'\\]|\\.)*'"
NEVER = "1970-01-01 00:00:00"
TABLES = (
    "users", "roles", "grants", "role_grants", "quotas", "quota_limits", "row_policies", "settings_profiles",
    "settings_profile_elements",
)


def unquote(text):
    """What a quoted name or string stands for."""
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text else text


def names(text):
    """The names in a list of them."""
    return [unquote(name) for name in re.findall(NAME, text or "")]


class Refusal(Exception):
    """An answer with a code of ClickHouse's and a message."""


class Replica:
    """What one server keeps. `histories`: {(kind, name): [GRANT and REVOKE statements]}."""

    def __init__(self, name):
        self.name, self.histories, self._rights = name, {}, {}
        self.rows = {table: {} for table in TABLES}
        self.secrets = {}
        self.run(f"CREATE USER `{ADMIN}`")
        self.rows["users"][ADMIN]["storage"] = "users_xml"

    def run(self, sql):
        """Keep what a statement says; Refusal for one that is not known here."""
        sql = re.sub(rf" ON CLUSTER {NAME}", "", sql)
        for pattern, method in (
            (rf"(CREATE|ALTER) USER (?:IF NOT EXISTS )?({NAME}) ?(.*)", self._user),
            (rf"CREATE ROLE (?:IF NOT EXISTS )?({NAME})", self._role),
            (rf"GRANT ({NAME}) TO ({NAME})( WITH ADMIN OPTION)?", self._grant_role),
            (rf"REVOKE (ADMIN OPTION FOR )?({NAME}) FROM ({NAME})", self._revoke_role),
            (rf"GRANT (.+) TO ({NAME})( WITH GRANT OPTION)?", self._grant),
            (rf"REVOKE (.+) FROM ({NAME})", self._revoke),
            (rf"CREATE QUOTA (?:IF NOT EXISTS|OR REPLACE) ({NAME}) (?:KEYED BY ([\w, ]+?)|NOT KEYED)"
             r"((?: FOR .*)?) TO (.*)", self._quota),
            (rf"(?:CREATE|ALTER) SETTINGS PROFILE (?:IF NOT EXISTS )?({NAME}) SETTINGS (.*)", self._profile),
            (rf"CREATE ROW POLICY (?:IF NOT EXISTS|OR REPLACE) ({NAME}) ON (?:({NAME})\.({NAME}|\*)) FOR SELECT "
             rf"USING (.*) AS (\w+) TO (.*)", self._policy),
            (rf"DROP ROW POLICY IF EXISTS ({NAME}) ON ({NAME})\.({NAME}|\*)", self._drop_policy),
            (rf"DROP (USER|ROLE|QUOTA|SETTINGS PROFILE) IF EXISTS ({NAME})", self._drop),
        ):
            found = re.fullmatch(pattern, sql, re.S)
            if found:
                return method(*found.groups())
        raise Refusal(48, f"the double does not know {sql}")

    def _user(self, verb, name, rest):
        name = unquote(name)
        row = self.rows["users"].get(name)
        if verb == "ALTER" and row is None:
            raise Refusal(192, f"There is no user `{name}`")
        if row is None:
            row = self.rows["users"][name] = {
                "name": name, "storage": "local_directory", "auth_type": ["no_password"], "host_ip": ["::/0"],
                "host_names": [], "host_names_regexp": [], "host_names_like": [], "default_database": "",
                "valid_until": [NEVER],
            }
        if "IDENTIFIED WITH" in rest:
            self.secrets[name] = re.findall(r"sha256_hash BY '(\w+)' SALT '(\w+)'", rest)
            row["auth_type"] = ["sha256_password"] * len(self.secrets[name]) or ["no_password"]
            row["valid_until"] = [NEVER] * len(row["auth_type"])
        until = re.findall(rf"VALID UNTIL ({TEXT})", rest)
        if until:  # of each method, or of all that there are
            row["valid_until"] = [unquote(text) for text in (until * len(row["auth_type"]))[:len(row["auth_type"])]]
        hosts = re.search(rf"HOST ((?:(?:ANY|LOCAL|NONE|(?:IP|NAME|LIKE) {TEXT})(?:, )?)+)", rest)
        if hosts:
            row.update({
                f"host_{key}": [unquote(text) for text in re.findall(rf"{word} ({TEXT})", hosts.group(1))]
                for key, word in (("ip", "IP"), ("names", "NAME"), ("names_like", "LIKE"))
            })
            row["host_ip"] += ["::/0"] if "ANY" in hosts.group(1) else []
            row["host_names"] += ["localhost"] if "LOCAL" in hosts.group(1) else []
        database = re.search(rf"DEFAULT DATABASE ({NAME})", rest)
        row["default_database"] = unquote(database.group(1)) if database else row["default_database"]
        profile = re.search(rf"SETTINGS PROFILE ({NAME})", rest)
        if profile:
            self._element("user", name, 0, inherit_profile=unquote(profile.group(1)))

    def _role(self, name):
        self.rows["roles"][unquote(name)] = {"name": unquote(name), "storage": "local_directory"}

    def _holder(self, name):
        name = unquote(name)
        kind = "user" if name in self.rows["users"] else "role"
        if name not in self.rows[f"{kind}s"]:
            raise Refusal(511, f"There is no user or role `{name}`")
        return kind, name

    def _grant_role(self, role, name, option):
        kind, name = self._holder(name)
        self.rows["role_grants"][(kind, name, unquote(role))] = {
            "user_name": None, "role_name": None, f"{kind}_name": name, "granted_role_name": unquote(role),
            "with_admin_option": int(bool(option)),
        }

    def _revoke_role(self, option, role, name):
        key = (*self._holder(name), unquote(role))
        if option:
            self.rows["role_grants"][key]["with_admin_option"] = 0
        else:
            self.rows["role_grants"].pop(key, None)

    def _grant(self, what, name, option):
        self.histories.setdefault(self._holder(name), []).append(f"GRANT {what}{option or ''}")

    def _revoke(self, what, name):
        self.histories.setdefault(self._holder(name), []).append(f"REVOKE {what}")

    def _quota(self, name, keys, intervals, to):
        self._drop("QUOTA", name)
        name = unquote(name)
        self.rows["quotas"][name] = {
            "name": name, "storage": "local_directory", "keys": keys.split(", ") if keys else [], "apply_to_all": 0,
            "apply_to_list": names(to),
        }
        for randomized, seconds, limits in re.findall(
            r"FOR (RANDOMIZED )?INTERVAL (\d+) second (?:MAX ([^,]+(?:, \w+ = [^,]+)*)|TRACKING ONLY)", intervals
        ):
            row = {"quota_name": name, "duration": int(seconds), "is_randomized_interval": int(bool(randomized))}
            for limit, value in re.findall(r"(\w+) = ([\d.]+)", limits):
                row[f"max_{limit}"] = float(value) if limit == "execution_time" else int(value)
            self.rows["quota_limits"][(name, seconds)] = row

    def _element(self, kind, name, index, **values):
        columns = ("setting_name", "value", "min", "max", "writability", "inherit_profile")
        self.rows["settings_profile_elements"][(kind, name, index)] = {
            **dict.fromkeys(("profile_name", "user_name", "role_name")), f"{kind}_name": name, "index": index,
            **dict.fromkeys(columns), **values,
        }

    def _profile(self, name, elements):
        name = unquote(name)
        self._drop("SETTINGS PROFILE", f"`{name}`")
        self.rows["settings_profiles"][name] = {"name": name, "storage": "local_directory"}
        found = re.finditer(
            rf"INHERIT ({NAME})|(\w+)(?: = ({TEXT}))?(?: MIN ({TEXT}))?(?: MAX ({TEXT}))?"
            r"(?: (WRITABLE|CONST|CHANGEABLE_\w+))?", elements,
        ) if elements != "NONE" else ()
        for index, one in enumerate(found):
            inherit, setting, value, low, high, writability = one.groups()
            self._element("profile", name, index, setting_name=setting, value=unquote(value), min=unquote(low),
                          max=unquote(high), writability=writability, inherit_profile=unquote(inherit))

    def _policy(self, name, database, table, condition, kind, to):
        self._drop_policy(name, database, table)
        key = tuple(unquote(word) if word != "*" else "*" for word in (name, database, table))
        self.rows["row_policies"][key] = {
            "short_name": key[0], "database": key[1], "table": key[2], "storage": "local_directory",
            "select_filter": condition, "is_restrictive": int(kind == "RESTRICTIVE"), "apply_to_all": 0,
            "apply_to_list": names(to),
        }

    def _drop_policy(self, name, database, table):
        key = tuple(unquote(word) if word != "*" else "*" for word in (name, database, table))
        self.rows["row_policies"].pop(key, None)

    def _drop(self, what, name):
        name, table = unquote(name), what.lower().replace(" ", "_") + "s"
        self.rows[table].pop(name, None)
        kind = {"users": "user", "roles": "role", "settings_profiles": "profile"}.get(table)
        self.histories.pop((kind, name), None)
        if table == "quotas":
            self.rows["quota_limits"] = {
                key: row for key, row in self.rows["quota_limits"].items() if row["quota_name"] != name
            }
        for other in ("role_grants", "settings_profile_elements"):
            self.rows[other] = {key: row for key, row in self.rows[other].items() if key[:2] != (kind, name)}

    def table(self, name):
        """The rows of one of TABLES."""
        return self._grants() if name == "grants" else list(self.rows[name].values())

    def _grants(self):
        """Rows of system.grants, by a real engine that has the statements in its file."""
        key = json.dumps(sorted((*holder, *statements) for holder, statements in self.histories.items()))
        if key not in self._rights and self.histories:
            holders = {f"u{number}": holder for number, holder in enumerate(self.histories)}
            server = ClickHouseServer(users=[
                user_xml(word, "x", grants=self.histories[holder] or ["REVOKE ALL ON *.*"])
                for word, holder in holders.items()
            ])
            try:
                text = server.start().query("SELECT * FROM system.grants WHERE user_name LIKE 'u%' FORMAT JSONEachRow")
            finally:
                server.close()
            self._rights[key] = []
            for row in map(json.loads, text.splitlines()):
                kind, name = holders[row["user_name"]]
                self._rights[key].append({**row, "user_name": None, "role_name": None, f"{kind}_name": name})
        return self._rights.get(key, [])


class AccessDouble:
    """Start with `start()`, end with `close()`. `engine` is a running ClickHouseServer, `replicas` what is kept.

    executed: the statements that were run. version: what SELECT version() answers, or None for the engine's own.
    denied: {text: code}, for statements that contain the text. down: a replica's number that runs nothing.
    late: how many logins of the admin are still refused, as before the server has read a new password.
    """

    def __init__(self, engine, replicas=1):
        self.engine, self.replicas = engine, [Replica(f"ch{number}:9000") for number in range(replicas)]
        self.executed, self.version, self.denied, self.down = [], None, {}, None
        self.late = 0
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                sql = self.rfile.read(int(self.headers["Content-Length"])).decode()
                try:
                    status, body, headers = 200, double.answer(self._login(), sql, urlsplit(self.path).query), {}
                except Refusal as refusal:
                    code, text = refusal.args
                    status, body = 500, f"Code: {code}. DB::Exception: {text} (version 26.7.2.1)"
                    headers = {"X-ClickHouse-Exception-Code": str(code)}
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(body.encode())}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def _login(self):
                if "Authorization" in self.headers:
                    return base64.b64decode(self.headers["Authorization"].split()[1]).decode().split(":", 1)
                fields = ("X-ClickHouse-User", "X-ClickHouse-Key")
                return [self.headers[field].encode("latin-1").decode() for field in fields]

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def start(self):
        """Listen. Returns self."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def close(self):
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def login(self, **overrides):
        """The login options for the admin."""
        return {**self.engine.login(), "login_port": self._server.server_address[1], **overrides}

    def answer(self, login, sql, query):
        """The text that answers a statement; Refusal."""
        self._check_login(*login)
        if sql == "SELECT version()" and self.version:
            return self.version
        found = re.search(r"FROM (?:system\.(\w+)|clusterAllReplicas\('[^']*', system, (\w+)\))", sql)
        if found and (found.group(1) in TABLES or found.group(2)):
            return self._table(found.group(1) or found.group(2), cluster=bool(found.group(2)))
        if re.match(r"(CREATE|ALTER|DROP) (USER|ROLE|QUOTA|SETTINGS PROFILE|ROW POLICY)|GRANT|REVOKE", sql):
            return self._run(sql, query)
        return self._forward(sql, query)

    def _check_login(self, user, password):
        if (user, password) == (ADMIN, ADMIN_PASSWORD):
            self.late -= 1
            if self.late < 0:
                return
        row = self.replicas[0].rows["users"].get(user, {"host_ip": [], "host_names": []})
        here = {"::/0", "localhost", "127.0.0.0/8"} & {*row["host_ip"], *row["host_names"]}
        known = self.replicas[0].secrets.get(user, [])
        ended = any(NEVER < until < time.strftime("%Y-%m-%d %H:%M:%S") for until in row.get("valid_until", []))
        if not here or ended or (password, True) not in [
            (password, hashlib.sha256((password + salt).encode()).hexdigest() == digest) for digest, salt in known
        ]:
            raise Refusal(516, f"{user}: Authentication failed")

    def _table(self, name, cluster):
        replicas = self.replicas if cluster else self.replicas[:1]
        if name in TABLES:
            rows = [{"_server": one.name if cluster else "", **row} for one in replicas for row in one.table(name)]
        else:
            text = self._forward(f"SELECT * FROM system.{name} FORMAT JSONEachRow", "")
            rows = [{"_server": one.name, **json.loads(row)} for one in replicas for row in text.splitlines()]
        columns = dict.fromkeys(key for row in rows for key in row)
        return json.dumps({"meta": [{"name": name, "type": "String"} for name in columns], "data": rows})

    def _run(self, sql, query):
        for text, code in self.denied.items():
            if text in sql:
                raise Refusal(code, "Not enough privileges.")
        self._formatted(sql, whole=True)
        self.executed.append(sql)
        on_cluster = "ON CLUSTER" in sql
        condition = re.search(r"(?<= USING ).*(?= AS (?:PERMISSIVE|RESTRICTIVE) TO )", sql, re.S)
        if condition:
            sql = sql.replace(condition.group(), self._formatted(condition.group()))
        for number, replica in enumerate(self.replicas if on_cluster else self.replicas[:1]):
            if number != self.down:
                replica.run(sql)
        if on_cluster and self.down is not None:
            seconds = parse_qs(query)["distributed_ddl_task_timeout"][0]
            raise Refusal(159, f"Distributed DDL task is not finished on 1 of 2 hosts after {seconds} s")
        return ""

    def _formatted(self, text, whole=False):
        """A statement, or an expression, as the real engine writes it; Refusal where it does not understand it."""
        quoted = (text if whole else f"SELECT {text}").replace("\\", "\\\\").replace("'", "\\'")
        written = self._forward(f"SELECT formatQuerySingleLine('{quoted}') FORMAT TSVRaw", "").rstrip("\n")
        return written if whole else written.partition("SELECT ")[2]

    def _forward(self, sql, query):
        request = urllib.request.Request(
            f"http://{self.engine.host}:{self.engine.http_port}/?{query}", data=sql.encode(),
            headers={"X-ClickHouse-User": ADMIN, "X-ClickHouse-Key": ADMIN_PASSWORD},
        )
        try:
            with HERE.open(request, timeout=60) as reply:
                return reply.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            raise Refusal(int(error.headers["X-ClickHouse-Exception-Code"]), text.partition("Exception: ")[2]) from None
