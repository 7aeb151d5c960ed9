"""The pages' modules as one classic script, for a folder of files: a browser loads no modules from file://.

Each module becomes a function that returns what it exports. Modules are written for it: an import is one line with
names, an export stands at a line's beginning and declares a function, a class or a constant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_IMPORT = re.compile(r"import \{([\w$, ]+)\} from '\./([\w-]+\.js)';\n?")
_EXPORT = re.compile(r"export (?=(?:async function\*?|function\*?|const|class) ([A-Za-z_$][\w$]*))")
_RENAMED = re.compile(r"([\w$]+) as ([\w$]+)")
_AT_START = re.compile(r"^(?:import|export)\b.*\n?", re.MULTILINE)


def bundle(modules: Mapping[str, str], entry: str = "main.js") -> str:
    """The script of a module and all that it imports, each before what uses it.

    Args:
        modules: Their texts, by name.

    Raises:
        ValueError: A module imports or exports in another form, is missing, or imports itself in a circle.
    """
    made: dict[str, str] = {}
    _add(entry, modules, made, ())
    return '"use strict";\n{\nconst modules = {};\n' + "".join(made.values()) + "}\n"


def _add(name: str, modules: Mapping[str, str], made: dict[str, str], above: tuple[str, ...]) -> None:
    if name in above:
        raise ValueError(f"{' → '.join([*above, name])}: modules import each other in a circle.")
    if name in made:
        return
    if name not in modules:
        raise ValueError(f"{above[-1] if above else 'The page'} imports {name}, which is not there.")
    exported: list[str] = []

    def taken(line: re.Match[str]) -> str:
        if found := _IMPORT.fullmatch(line[0]):
            _add(found[2], modules, made, (*above, name))
            names = _RENAMED.sub(r"\1: \2", found[1].strip())
            return f"const {{ {names} }} = modules['{found[2]}'];\n"
        if found := _EXPORT.match(line[0]):
            exported.append(found[1])
            return line[0].removeprefix("export ")
        raise ValueError(f"{name}: {line[0].strip()[:100]!r} is in a form that a site cannot have.")

    body = _AT_START.sub(taken, modules[name])
    exports = ", ".join(exported)
    made[name] = f"modules['{name}'] = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();\n"
