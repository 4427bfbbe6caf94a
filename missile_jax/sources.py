"""Where a configuration comes from: a file, then the environment, then flags. The later one wins.

``http: {port: 8000}`` in the file, ``MISSILE_HTTP_PORT=8001``, ``--http-port 8002``. All that is
wrong, in all three, is reported in one ConfigError.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from missile_jax.config import Config, ModelConfig, SLOConfig, TenantConfig, hint
from missile_jax.errors import ConfigError
from missile_jax.options import ServerOptions, TokenOptions

PREFIX = "MISSILE_"
FLAGS = {
    "--policy": ("policy",),
    "--host": ("http", "host"),
    "--http-port": ("http", "port"),
    "--grpc-port": ("grpc", "port"),
}
SECTIONS = {name: type(section) for name, section in ServerOptions()}
KeyPath = tuple[str | int, ...]


def load_config(
    file: Path | None, *, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> Config:
    """The configuration in `file`, overridden by `environment`, overridden by `flags`.

    environment: such as `os.environ`; ``MISSILE_HTTP_PORT`` sets ``http.port``.
    flags: by the names in `FLAGS`; None where a flag was not given.
    Raises ConfigError that lists everything that is wrong.
    """
    problems: list[str] = []
    values = {} if file is None else _read(file)
    origins: dict[KeyPath, str] = {}
    if "models" in values:
        values["models"] = _by_name(values["models"], problems)
    for name, path, value in (*_from_environment(environment, problems), *_from_flags(flags)):
        section = values
        for key in path[:-1]:
            section = section.setdefault(key, {})
        if isinstance(section, dict):
            section[path[-1]] = value
            origins[path] = name
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += [_problem(detail, origins) for detail in error.errors()]
    else:
        if not problems:
            return config
    raise ConfigError("\n  ".join([f"{file or 'the configuration'} is wrong:", *problems]))


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{file} must hold a mapping with the keys {', '.join(Config.model_fields)}"
        )
    return values


def _by_name(models: Any, problems: list[str]) -> Any:
    """A list of models with a name each, as a mapping."""
    if not isinstance(models, list):
        return models
    named: dict[str, Any] = {}
    for index, entry in enumerate(models):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            problems.append(f"models[{index}]: must be a mapping with a name, got {_brief(entry)}")
        elif entry["name"] in named:
            problems.append(f"models[{index}].name: {entry['name']!r} is taken by an earlier model")
        else:
            named[entry["name"]] = {key: entry[key] for key in entry if key != "name"}
    return named


def _variables() -> dict[str, tuple[str, ...]]:
    others = {"models", "tenants", *SECTIONS}
    paths: list[tuple[str, ...]] = [(key,) for key in Config.model_fields if key not in others]
    paths += [(name, key) for name, options in SECTIONS.items() for key in options.model_fields]
    return {PREFIX + "_".join(path).upper(): path for path in paths}


def _from_environment(
    environment: Mapping[str, str], problems: list[str]
) -> list[tuple[str, tuple[str, ...], Any]]:
    known = _variables()
    found = []
    for name, text in environment.items():
        if name in known:
            found.append((name, known[name], _scalar(text)))
        elif name.startswith(PREFIX) and difflib.get_close_matches(name, known, 1, 0.9):
            # Others may be another program's: Kubernetes makes MISSILE_SERVICE_HOST for a service.
            problems.append(f"{name}: unknown variable; {hint(name, known)}")
    return found


def _scalar(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _from_flags(flags: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], Any]]:
    return [(name, FLAGS[name], value) for name, value in flags.items() if value is not None]


def _problem(detail: Any, origins: Mapping[KeyPath, str]) -> str:
    loc: KeyPath = tuple(part for part in detail["loc"] if part != "[key]")
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)[1:]
    if loc in origins:
        where = f"{origins[loc]} ({where})"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key; {hint(str(loc[-1]), _keys(loc[:-1]))}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.replace("should", "must", 1)
    return f"{where}: got {_brief(detail['input'])}; {message}"


def _keys(loc: KeyPath) -> Iterable[str]:
    match loc:
        case ():
            return Config.model_fields
        case (str(name),) if name in SECTIONS:
            return SECTIONS[name].model_fields
        case ("auth", "tokens", _):
            return TokenOptions.model_fields
        case (*_, "slo"):
            return SLOConfig.model_fields
        case ("tenants", _):
            return TenantConfig.model_fields
    return ModelConfig.model_fields


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
