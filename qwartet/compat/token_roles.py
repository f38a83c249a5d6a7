"""The roles that a special token can have in a tokenizer, as attributes: pad_token, eos_token, and their ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

ROLES = ("pad_token", "eos_token", "bos_token", "unk_token")


class HasRoles(Protocol):
    """What the attributes below need of a tokenizer."""

    _roles: dict[str, str | None]

    @property
    def special_tokens(self) -> dict[str, int]: ...
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any: ...
    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int: ...


class Role:
    """One of the roles that a special token can have; the stored value is its text or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: HasRoles | None, owner: type | None = None) -> Any:
        return self if tokenizer is None else tokenizer._roles[self.name]

    def __set__(self, tokenizer: HasRoles, token: Any) -> None:
        if token is not None:
            tokenizer._add_tokens([token], special_tokens=True)
        tokenizer._roles[self.name] = None if token is None else surface_form(token)


class RoleId:
    """The id of the token that has a role."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.role = name.removesuffix("_id")

    def __get__(self, tokenizer: HasRoles | None, owner: type | None = None) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._roles[self.role]
        return None if token is None else tokenizer.special_tokens[token]

    def __set__(self, tokenizer: HasRoles, token_id: int | None) -> None:
        setattr(tokenizer, self.role, None if token_id is None else tokenizer.convert_ids_to_tokens(token_id))


def surface_form(token: Any) -> str:
    """Text of a token given as text, as AddedToken, or as the dict that a saved one is."""
    if isinstance(token, Mapping):
        return str(token.get("content"))
    return str(getattr(token, "content", token))
