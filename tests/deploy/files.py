"""Reads what lies in deploy/ as those would who use it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from annotated_types import Le

from dispatcher.fields import WaitSeconds
from web.settings import SETTINGS, SettingsError
from web.sources import load

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
PROGRAMS = PROJECT / ".venv" / "bin"
LONGEST_WAIT_SECONDS = next(it.le for it in WaitSeconds.__metadata__ if isinstance(it, Le))
REFERENCE = re.compile(r"\$(?:\$|(?P<bare>\w+)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<other>[^}]*))?\})")


class Once(yaml.SafeLoader):
    """A key that comes twice is a mistake: YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{sorted(twice)} twice in {node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.load_all(path.read_text(), Once) if document is not None]


def document(path: Path) -> Any:
    (only,) = documents(path)
    return only


def interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    """With the variables of the environment put in, as Compose does it. Raises KeyError for one that must be there."""
    if isinstance(value, dict):
        return {key: interpolated(it, environ) for key, it in value.items()}
    if isinstance(value, list):
        return [interpolated(it, environ) for it in value]
    return REFERENCE.sub(lambda match: _put_in(match, environ), value) if isinstance(value, str) else value


def _put_in(match: re.Match[str], environ: Mapping[str, str]) -> str:
    name, how, other = match["bare"] or match["name"], match["how"] or "", match["other"]
    if name is None:
        return "$"
    found = environ.get(name)
    if found is None or (not found and ":" in how):
        if "?" in how or not how:
            raise KeyError(name)
        return str(other)
    return found


def environment_of_the_image() -> dict[str, str]:
    """What the last stage of the Dockerfile sets."""
    text = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]
    lines = re.findall(r"^ENV (.*)$", stage, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def settings_from(environ: Mapping[str, str]) -> Any:
    """The settings that a server finds in this environment; whatever is wrong with it fails the test."""
    return load({}, environ)


def known_variables() -> set[str]:
    short = {str(it.field.metadata.get("variable")) for it in SETTINGS.values()}
    return {it.variable for it in SETTINGS.values()} | short


def is_refused(**environ: str) -> bool:
    with suppress(SettingsError):
        load({}, environ)
        return False
    return True


def all_files() -> Iterator[Path]:
    return (path for path in sorted(DEPLOY.rglob("*")) if path.is_file())
