from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tandem_core.settings import ConfigError
from tandem_core.tokens import MOST_TOKENS, Scope, digest, new_token, read_secret, read_tokens


def test_a_new_token_is_known_by_the_lines_that_come_with_it(tmp_path: Path) -> None:
    token, lines = new_token("shop", frozenset({Scope.SERVE, Scope.WRITE}))
    (tmp_path / "tokens.toml").write_text(lines)
    tokens = read_tokens(tmp_path / "tokens.toml")
    for header in (f"Bearer {token}", f"bearer {token}"):
        found = tokens.of(header)
        assert found is not None
        assert (found.name, found.scopes) == ("shop", {Scope.SERVE, Scope.WRITE})
    assert [tokens.of(h) for h in ("", token, f"Basic {token}", f"Bearer {token}x", "Bearer ", "Bearer é")] == [
        None
    ] * 6


def test_every_new_token_is_another() -> None:
    assert len({new_token("a", frozenset({Scope.SERVE}))[0] for _ in range(100)}) == 100


def test_neither_token_nor_hash_is_in_the_repr_of_anything(tmp_path: Path) -> None:
    token, lines = new_token("shop", frozenset({Scope.SERVE}))
    (tmp_path / "tokens.toml").write_text(lines)
    tokens = read_tokens(tmp_path / "tokens.toml")
    shown = repr(tokens) + repr(tokens.all) + repr(tokens.of(f"Bearer {token}")) + str(tokens)
    assert token not in shown
    assert digest(token) not in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "tokens"),
        ("tokens = []", "tokens"),
        ('[[tokens]]\nname = "a"\nscopes = ["serve"]', "tokens.0.sha256"),
        (f'[[tokens]]\nname = "a"\nsha256 = "{"0" * 63}"\nscopes = ["serve"]', "tokens.0.sha256"),
        (f'[[tokens]]\nname = "a b"\nsha256 = "{"0" * 64}"\nscopes = ["serve"]', "tokens.0.name"),
        (f'[[tokens]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["root"]', "tokens.0.scopes"),
        (f'[[tokens]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = []', "tokens.0.scopes"),
        (f'[[tokens]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["serve"]\nsecret = "x"', "tokens.0.secret"),
        (f'[[tokens]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["serve"]\n' * 2, r"\['a'\] share a name"),
        (
            "".join(f'[[tokens]]\nname = "{n}"\nsha256 = "{"0" * 64}"\nscopes = ["serve"]\n' for n in "ab"),
            "share a sha2",
        ),
        ("".join(new_token(f"a{k}", frozenset({Scope.SERVE}))[1] for k in range(MOST_TOKENS + 1)), str(MOST_TOKENS)),
    ],
)
def test_a_wrong_tokens_file_is_refused_by_name_without_telling_a_hash(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said) as refused:
        read_tokens(path)
    assert str(path) in str(refused.value)
    assert "0" * 60 not in str(refused.value)


def test_a_name_that_no_file_could_hold_is_no_name_of_a_new_token() -> None:
    with pytest.raises(ValidationError, match="name"):
        new_token('a"\nscopes = ["admin"]', frozenset({Scope.SERVE}))


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "b\xe9", "a\x00b"])
def test_a_file_that_holds_no_single_token_is_refused_without_telling_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=str(path)) as refused:
        read_secret(path)
    assert not content or content not in str(refused.value)
    path.write_text("tandem_abc\n")
    assert read_secret(path) == "tandem_abc"
