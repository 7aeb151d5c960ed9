"""What can go wrong, as one tree.

    MlxterpError
    ├── ComponentError (KeyError)          no such component, or more than one
    │   └── NeverCalledError               the module exists, the forward pass never calls it
    ├── InputError (ValueError)            texts, token ids or arguments that cannot be run
    │   ├── NoTokenizerError               text was given to a model without a tokenizer
    │   └── NotFiniteError                 logits or a loss that are NaN or infinite
    ├── EditError (ValueError)             a value that does not fit where it is assigned
    ├── TraceError (RuntimeError)          a value was asked for outside its trace
    ├── GradientError (ArithmeticError)    a gradient that is not finite
    ├── NotALanguageModelError (TypeError) the object given is no language model
    ├── SAEError (ValueError)              an SAE that cannot be read, or does not fit the model
    │   └── UnknownFeatureError            a feature id outside the SAE
    ├── CircuitError (ValueError)          an attribution graph that cannot be made or read
    ├── FeatureIndexError (ValueError)     an index that cannot be opened, or is of another SAE or model
    ├── WriteError (OSError)               nothing can be written there; also the error of what was written
    ├── NetworkError (ConnectionError)     a server cannot be reached, or does not answer as it should
    └── BackendError (ImportError)         the library a wing needs is not installed

Two warnings: `ConfigWarning` (a setting of a checkpoint would be ignored by the library that runs
it) and `MlxterpWarning`, its parent, for everything else that is worth a sentence.
"""

import sys
import warnings
from pathlib import Path


class MlxterpError(Exception):
    """Everything this library raises on purpose."""


class ComponentError(MlxterpError, KeyError):
    """No component has that name, several have it, or it cannot be read or edited here."""

    def __str__(self) -> str:  # KeyError would show the message quoted and escaped
        return str(self.args[0]) if self.args else ""


class NeverCalledError(ComponentError):
    """The module exists, but this forward pass did not call it."""


class InputError(MlxterpError, ValueError):
    """Texts, token ids or arguments that cannot be run."""


class NoTokenizerError(InputError):
    """Text was given, and the model has no tokenizer."""


class NotFiniteError(InputError, ArithmeticError):
    """Logits, or a number made of them, that are NaN or infinite."""


class EditError(MlxterpError, ValueError):
    """A value that does not fit the component it is assigned to."""


class TraceError(MlxterpError, RuntimeError):
    """A value was asked for outside the trace that holds it."""


class GradientError(MlxterpError, ArithmeticError):
    """A gradient is not finite."""


class NotALanguageModelError(MlxterpError, TypeError):
    """The object given is not a language model that a backend can run."""


class SAEError(MlxterpError, ValueError):
    """An SAE that cannot be read, saved, trained, or used at this component."""


class UnknownFeatureError(SAEError, IndexError):
    """A feature id outside [0, d_hidden)."""


class CircuitError(MlxterpError, ValueError):
    """An attribution graph that would be wrong, or a file that holds none."""


class FeatureIndexError(MlxterpError, ValueError):
    """An index that cannot be built, opened or merged, or that belongs to another SAE, model or text."""


class WriteError(MlxterpError, OSError):
    """A file or folder that cannot be written: no room, no permission. It is also the error of what was being written
    (`SAEError`, `FeatureIndexError`, `InputError`)."""


class InputWriteError(InputError, WriteError):
    """A page, picture, export or registry that cannot be written."""


class SAEWriteError(SAEError, WriteError):
    """An SAE, store or checkpoint that cannot be written."""


class IndexWriteError(FeatureIndexError, WriteError):
    """An index, or an export of one, that cannot be written."""


class JudgeError(MlxterpError, ConnectionError):
    """A server of a judge cannot be used; the message names it and what to do."""


class NetworkError(MlxterpError, ConnectionError):
    """A server cannot be reached, breaks off, or does not answer as it should; the message has the address."""


class BackendError(MlxterpError, ImportError):
    """The array library or package a backend needs is not installed."""


class MlxterpWarning(UserWarning):
    """Something that is not an error but should not pass in silence."""


class ConfigWarning(MlxterpWarning):
    """A checkpoint's setting that the library running the model does not read."""


def warn(message: str, category: type[Warning] = MlxterpWarning) -> None:
    """Warns at the line of the user's code that led here."""
    package, level, frame = str(Path(__file__).parent), 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
