from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem_core.service_arguments import load_settings, settings_from_arguments
from tandem_core.settings import ConfigError, Settings, parse_settings, read_toml


class ShopSettings(BaseSettings):
    """Settings of a shop."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="TANDEM_TEST_SHOP_")

    port: int = Field(default=1, ge=0, le=9)
    name: str = "none"
    share: float = 0.5


def test_environment_goes_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "shop.toml"
    path.write_text('port = 2\nname = "file"')
    monkeypatch.setenv("TANDEM_TEST_SHOP_PORT", "3")
    settings = settings_from_arguments(ShopSettings, ["--config", str(path)])
    assert (settings.port, settings.name, settings.share) == (3, "file", 0.5)
    assert isinstance(settings, ShopSettings)
    assert settings_from_arguments(ShopSettings, []).name == "none"


def test_an_unknown_key_of_a_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^shop\.toml: prot: Extra inputs"):
        load_settings(ShopSettings, {"prot": 2}, "shop.toml")


def test_values_of_a_wrong_type_or_range_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"port: .*valid integer.*; share: .*valid number"):
        load_settings(ShopSettings, {"port": "many", "share": "half"}, "shop.toml")
    with pytest.raises(ConfigError, match=r"port: .*less than or equal to 9"):
        load_settings(ShopSettings, {"port": 10}, "shop.toml")


def test_a_bad_value_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TEST_SHOP_PORT", "many")
    with pytest.raises(ConfigError, match=r"environment: .*port: .*valid integer"):
        load_settings(ShopSettings, {}, "environment")


@pytest.mark.parametrize(("text", "said"), [("port = 99", "port:"), ("port", "is not TOML"), (None, "does not exist")])
def test_a_service_with_wrong_settings_ends_with_one_clear_line(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        settings_from_arguments(ShopSettings, ["--config", str(path)])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert str(path) in printed
    assert printed.count("\n") == 1


def test_settings_of_one_table_can_be_taken_from_a_shared_file(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text("[shop]\nport = 4\n[other]\nx = 1")
    assert settings_from_arguments(ShopSettings, ["--config", str(path), "--table", "shop"]).port == 4


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml is not TOML"):
        read_toml(path)


def test_parsing_reports_every_wrong_key_and_where_it_came_from() -> None:
    class Inner(Settings):
        size: int = 1

    class Outer(Settings):
        inner: Inner = Inner()

    with pytest.raises(ConfigError, match=r"^here: inner\.size: .*; inner\.sise: Extra"):
        parse_settings(Outer, {"inner": {"size": "x", "sise": 2}}, "here")
    assert parse_settings(Outer, {"inner": {"size": 3}}, "here").inner.size == 3
