"""The commands of the program as text, from the program itself."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from bayes_mlff.cli.app import app


def text() -> str:
    """All commands with their arguments and options as Markdown, a heading for each.

    Raises:
      ValueError: naming a command, argument or option without help.
    """
    group: Any = typer.main.get_command(app)
    lines = [*_command("bayes-mlff", group)]
    for name in sorted(group.commands):
        lines += _command(f"bayes-mlff {name}", group.commands[name])
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    said = _one_line(command.help or "")
    if not said:
        raise ValueError(f"{name}: this command has no help")
    anchor = name.replace(" ", "-")
    yield from (f"## `{name}` {{#{anchor}}}", "", said, "")
    parameters = [each for each in command.params if each.name != "help" and not getattr(each, "hidden", False)]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    usage = " ".join([name, *map(_placeholder, arguments)])
    yield from ("```", f"{usage}{' [OPTIONS]' if len(parameters) > len(arguments) else ''}", "```", "")
    if parameters:
        yield from ("| | default | meaning |", "|---|---|---|")
    for each in parameters:
        yield _row(name, each)
    yield ""


def _placeholder(argument: Any) -> str:
    word = argument.name.upper() + ("..." if argument.nargs != 1 else "")
    return word if argument.required else f"[{word}]"


def _row(command: str, parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.name.upper() if is_argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    if not parameter.help:
        raise ValueError(f"{command} {names}: no help")
    value = parameter.default
    default = "" if value in (None, False, [], ()) or callable(value) else f"`{value}`"
    default = "must be given" if parameter.required else default
    return f"| `{names}` | {default} | {_one_line(parameter.help).replace('|', chr(92) + '|')} |"


def _one_line(text: str) -> str:
    """Help without the line breaks of terminals; dotted keys of settings stay as they are."""
    return re.sub(r"\s+", " ", text).strip().replace("<", "&lt;")
