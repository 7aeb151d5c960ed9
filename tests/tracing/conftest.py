"""The Llama that edits are tried on, for generation too; a file may have a model of its own."""

from tests.edits.conftest import folder, model

__all__ = ["folder", "model"]
