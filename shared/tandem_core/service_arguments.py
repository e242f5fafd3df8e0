"""Command line of a service: `--config FILE`, and nothing else; the rest is in the file or the environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from tandem_core.settings import ConfigError, read_toml

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def settings_from_arguments(kind: type[SettingsT], arguments: Sequence[str]) -> SettingsT:
    """Return the settings of a service; exits with one clear line when they are wrong."""
    parser = argparse.ArgumentParser(description=kind.__doc__)
    parser.add_argument("--config", type=Path, help="TOML file; environment variables override it")
    path: Path | None = parser.parse_args(arguments).config
    try:
        return load_settings(kind, {} if path is None else read_toml(path), str(path or "environment"))
    except ConfigError as error:
        parser.exit(2, f"{error}\n")


def load_settings(kind: type[SettingsT], file: dict[str, Any], where: str) -> SettingsT:
    """Return settings from the environment over a file's values over defaults; raises ConfigError naming the key."""

    class Layered(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return sources["env_settings"], sources["init_settings"]

    try:
        loaded: SettingsT = Layered(**file)
        return loaded
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{where}: {wrong}") from error
