"""Write roles/<role>/README.md from meta/argument_specs.yml: role_readmes.py [--check]."""

import argparse
import re
import sys
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"
MARKUP = (
    (r"[BI]\(([^()]*)\)", r"*\1*"),
    (r"[CVOE]\(((?:[^()]|\([^()]*\))*)\)", r"`\1`"),
    (r"L\(([^(),]*), *([^()]*)\)", r"[\1](\2)"),
    (r"M\(([^()]*)\)", r"`\1`"),
)


def sentences(description):
    """An argument spec's description (a string or a list of them) as Markdown on one line."""
    text = " ".join(description) if isinstance(description, list) else str(description)
    for pattern, replacement in MARKUP:
        text = re.sub(pattern, replacement, text)
    return " ".join(text.split())


def default(option):
    """The default as the operator would write it, on one line."""
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return "unset"
    value = option["default"]
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    text = text.strip().removesuffix("...").strip()
    return f"`{text}`" if len(text) <= 60 else "see [defaults](defaults/main.yml)"


def rows(options, prefix=""):
    """The table's rows for `options`; the options of list items follow theirs, indented by name."""
    for name, option in options.items():
        kind = option.get("type", "str") + (f" of {option['elements']}" if option.get("elements") else "")
        text = sentences(option["description"])
        if option.get("choices"):
            text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        shown = default(option).replace("|", "\\|")
        text = text.replace("|", "\\|")
        yield f"| `{prefix}{name}` | {kind} | {shown} | {text} |"
        separator = "[]." if kind.startswith("list") else "."
        yield from rows(option.get("options", {}), f"{prefix}{name}{separator}")


def readme(role):
    """The README's text for the role in the folder `role`."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    lines = [f"# frameworks.database.{role.name}", ""]
    for entry, spec in specs.items():
        title = spec["short_description"]
        lines += [f"{title}." if entry == "main" else f"## Entry point `{entry}`: {title}", ""]
        description = spec.get("description", [])
        lines += [sentences(part) for part in ([description] if isinstance(description, str) else description)] + [""]
        if "examples" in spec:
            lines += ["```yaml", spec["examples"].rstrip(), "```", ""]
        if spec.get("options"):
            lines += ["| variable | type | default | what it is |", "| --- | --- | --- | --- |"]
            lines += [*rows(spec["options"]), ""]
    return "\n".join(lines + ["*Written by `make docs` from meta/argument_specs.yml.*", ""])


def main():
    """Write the READMEs, or with --check say which are out of date and exit with 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for role in sorted(path.parents[1] for path in ROLES.glob("*/meta/argument_specs.yml")):
        text, path = readme(role), role / "README.md"
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROLES.parent)))
            if not check:
                path.write_text(text)
    if check and stale:
        sys.exit(f"Out of date, run `make docs`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
