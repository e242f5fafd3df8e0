from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import redis

from tandem_core.settings import ConfigError
from tandem_core.stores.base import StoredEvent, StoreUnavailable
from tandem_core.stores.open import open_store, without_password
from tandem_core.stores.suppression import key_beside, read_key, user_hash

EVENT = StoredEvent("", "ann", "a", 5, "click", None)


def test_a_password_is_never_told(caplog: pytest.LogCaptureFixture, a_closed_port: int) -> None:
    url = f"redis://joe:hunter2@127.0.0.1:{a_closed_port}/0"
    store = open_store(url)
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreUnavailable) as down:
        store.add_events([EVENT])
    with pytest.raises(ConfigError) as wrong:
        open_store("redis://joe:hunter2@host:port/0")
    with pytest.raises(ConfigError) as unknown:
        open_store(url + "?passwort_file=x")
    told = [repr(store), str(down.value), str(wrong.value), str(unknown.value), caplog.text, without_password(url)]
    assert not [text for text in told if "hunter2" in text]
    assert f"127.0.0.1:{a_closed_port}" in str(down.value)


@pytest.mark.parametrize("option", ["passwort_file=x", "key=1", "suppression_key_file="])
@pytest.mark.parametrize("address", ["redis://h/0", "sqlite:////tmp/x.db"])
def test_an_unknown_or_empty_option_is_refused_by_name(address: str, option: str) -> None:
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        open_store(f"{address}?{option}")


def test_a_password_from_a_file_is_read_at_each_connect(valkey: Any, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    with redis.Redis(port=valkey.port) as admin:
        admin.acl_setuser("joe", enabled=True, passwords=["+second"], keys=["*"], commands=["+@all"])
        store = open_store(f"redis://joe@127.0.0.1:{valkey.port}/7?password_file={file}")
        with pytest.raises(StoreUnavailable):
            store.add_events([EVENT])
        file.write_text("second\n")
        assert len(store.add_events([EVENT])) == 1
        store.close()
        admin.acl_deluser("joe")


def test_reads_of_a_store_that_is_down_do_not_wait_one_after_another(a_closed_port: int) -> None:
    store = open_store(f"redis://127.0.0.1:{a_closed_port}/0")
    with pytest.raises(StoreUnavailable, match="refused"):
        store.read("ann")
    with pytest.raises(StoreUnavailable, match="a moment ago"):
        store.read("ann")


def test_stores_with_one_key_file_name_forgotten_users_alike(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    store = open_store(f"sqlite:///{tmp_path}/s.db?suppression_key_file={key}")
    store.forget("ann")
    assert store.forgotten_among(["ann", "bob"]) == {"ann"}
    assert not (tmp_path / "s.db.suppression-key").exists()
    key.write_text("fedcba9876543210\n")
    assert store.forgotten_among(["ann", "bob"]) == set()
    key.write_text("short")
    with pytest.raises(StoreUnavailable, match="has 5 bytes; it needs at least 16"):
        store.forgotten_among(["ann"])
    store.close()


def test_a_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    made = key_beside(tmp_path / "key")
    assert key_beside(tmp_path / "key") == made == read_key(tmp_path / "key")
    assert len(made) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert user_hash(made, "ann") != user_hash(b"x" * 64, "ann")
    assert len(user_hash(made, "ann")) == 32


@pytest.fixture
def a_closed_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
