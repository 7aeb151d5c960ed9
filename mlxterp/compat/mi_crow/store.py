"""Mi-Crow's module of stores: `LocalStore(base_path="./store")` is mlxterp's."""

from ...activations.local_store import LocalStore

__all__ = ["LocalStore"]
