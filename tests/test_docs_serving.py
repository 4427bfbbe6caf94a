"""docs/serving.md: its reference of the configuration has every key with its default."""

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from missile_jax.config import Config, ModelConfig, SLOConfig, TenantConfig

PAGE = Path(__file__).parent.parent / "docs" / "serving.md"
NESTED = {"tenants": ("tenants.T", TenantConfig), "models": ("models.M", ModelConfig)}


def keys(section: type[BaseModel], path: str = "") -> dict[str, str]:
    """The default of each key as the page writes it, by its path; empty for none."""
    found = {}
    for name, field in section.model_fields.items():
        where = f"{path}{name}"
        default = field.get_default()
        if section is Config and name in NESTED:
            prefix, options = NESTED[name]
            found |= keys(options, f"{prefix}.")
        elif where == "models.M.slo":
            found |= keys(SLOConfig, f"{where}.")
        elif isinstance(default, BaseModel):
            found |= keys(type(default), f"{where}.")
        elif field.is_required():
            found[where] = "required"
        else:
            found[where] = "" if default is None else f"`{written(default)}`"
    return found


def written(default: object) -> str:
    return yaml.safe_dump(default).removesuffix("...\n").strip()


def test_every_key_stands_there_with_its_default():
    reference = PAGE.read_text().partition("\n## Configuration\n")[2]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) ?\|", reference, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a key stands there twice"
    assert dict(rows) == keys(Config)
