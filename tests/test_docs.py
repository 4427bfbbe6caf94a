"""What the documents list is all there is."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from missile_jax.config import Config, ModelConfig, SLOConfig, TenantConfig

ROOT = Path(__file__).parent.parent
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


def test_the_configuration_has_every_key_with_its_default():
    reference = (ROOT / "docs" / "serving.md").read_text().partition("\n## Configuration\n")[2]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) ?\|", reference, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a key stands there twice"
    assert dict(rows) == keys(Config)


PACKAGE = ROOT / "missile_jax"
# Named without an ending, or plain.
NOT_LISTED = {"__init__.py", "_native.pyi", "py.typed", "README.md"}


def files(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir() if f.is_file()} - NOT_LISTED


@pytest.mark.parametrize(
    "folder",
    sorted(f.relative_to(PACKAGE) for f in (PACKAGE, *PACKAGE.rglob("[a-z]*")) if f.is_dir()),
    ids=str,
)
def test_the_house_has_every_file(folder):
    house = (ROOT / "docs" / "architecture.md").read_text().partition("```")[2].partition("```")[0]
    if folder.name:
        _, part = re.search(
            rf"^( +){folder.name}/ (.*?)(?=^\1\S|^ {{,2}}\S|\Z)", house, re.MULTILINE | re.DOTALL
        ).groups()
    else:
        part = "\n".join(re.findall(r"^  (\S.*)", house, re.MULTILINE))
    assert files(PACKAGE / folder) <= set(re.findall(r"[\w.]+", part))


def test_the_plugin_s_options_are_those_that_it_reads():
    page = (ROOT / "docs" / "plugin.md").read_text()
    listed = re.findall(r"^\| `MISSILE_PJRT_(\w+)` \|", page, re.MULTILINE)
    source = (ROOT / "xla_plugin" / "pjrt" / "options.cc").read_text()
    names = set(re.findall(r'\b(?:lookup|bytes|flag)\("(\w+)"', source))
    assert set(listed) == names | {"LIBRARY", "ALWAYS"}
    assert len(listed) == len(set(listed))
