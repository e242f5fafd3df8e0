"""Command line of a service: which file, and which table of it; the rest is in the file or the environment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from tandem_core.settings import ConfigError, read_toml

WRONG_CONFIG = 2  # exit code; a restart would end the same way

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def settings_from_arguments(kind: type[SettingsT], arguments: Sequence[str]) -> SettingsT:
    """Return the settings of a service; exits with one clear line when they are wrong."""
    parser = argparse.ArgumentParser(description=kind.__doc__)
    parser.add_argument("--config", type=Path, help="TOML file; environment variables override it")
    parser.add_argument("--table", help="table of the file that holds the settings; default: the whole file")
    given = parser.parse_args(arguments)
    with config_errors_end_it():
        if given.config is None:
            return load_settings(kind, {}, "environment")
        values = read_toml(given.config)
        if given.table is None:
            return load_settings(kind, values, str(given.config))
        return load_settings(kind, values.get(given.table, {}), f"{given.config}: {given.table}")


@contextmanager
def config_errors_end_it() -> Iterator[None]:
    """End the process with one clear line and code 2 where its configuration cannot be used."""
    try:
        yield
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(WRONG_CONFIG) from error


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
