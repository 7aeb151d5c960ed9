"""`SAE` as SAELens's users call it: a wrapper around `mlxterp.SAE`, which computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ... import sae as ours
from ...backends import get_backend
from ...core.sites import Array
from ...errors import InputError, SAEError, warn
from ...weights import SAEWeights
from ..devices import wing_for
from .config import SAEConfig, sae_config

_TOLD: set[str] = set()


class SAE:
    """A sparse autoencoder or transcoder with SAELens's names; `sae.sae` is the one of this library.

    Weights are native arrays (MLX or PyTorch), to be read and not written. Scales and norms that files keep
    apart are folded into them, so they can differ from the file's while features and reconstructions do not.

    Args:
        sae: An SAE of this library: `SAE(mlxterp.SAE.load(path))`.
        use_error_term: Whether calling it adds what the reconstruction misses.
    """

    def __init__(self, sae: ours.SAE, use_error_term: bool = False):
        if not isinstance(sae, ours.SAE):
            raise InputError(
                f"Expected an mlxterp.SAE, got {type(sae).__name__}. SAE.load_from_disk reads files."
            )
        self.sae = sae
        self.use_error_term = use_error_term
        self._native: SAEWeights | None = None
        self._like: Array | None = None
        self._heads: tuple[int, ...] = ()
        self.cfg: SAEConfig = sae_config(sae, self.device)
        self.sparsity: Array | None = None

    # -- making one ---------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, release: str, sae_id: str | None = None, device: Any = None, backend: str | None = None,
        revision: str | None = None, **options: Any,
    ) -> SAE:  # fmt: skip
        """A published SAE by SAELens's names.

        The SAE also unpacks as `sae, cfg_dict, sparsity = SAE.from_pretrained(…)`, and `[0]` is the SAE itself,
        as before version 6. `sparsity` is None: no such file is read.

        Args:
            release: "gpt2-small-res-jb", or a repository of the hub ("owner/name").
            sae_id: "blocks.7.hook_resid_pre".
            device: "cpu", "cuda", "cuda:1" and "mps" run PyTorch there, where it is installed and has the device;
                None and "mlx" run MLX where it is installed. Where there is no such device, MLX or else PyTorch's
                best device is used, with one warning.
            backend: "mlx" or "torch", that of the model it is used with; where it is given, it decides.
            options: `dtype="float32"` and `force_download=False` are the only values there are.

        Raises:
            SAEError: No such release, id or file; offline and not in the cache.
            InputError: An option that cannot be honoured.
        """
        _refuse(options)
        wing, place = _wing(backend, device)
        return cls(ours.SAE.from_pretrained(release, sae_id, wing, place, revision=revision))

    @classmethod
    def from_pretrained_with_cfg_and_sparsity(
        cls,
        release: str,
        sae_id: str | None = None,
        device: Any = None,
        backend: str | None = None,
        **options: Any,
    ) -> tuple[SAE, dict[str, Any], Array | None]:
        """The SAE, its settings as a dictionary, and None: no sparsity file is read. See `from_pretrained`."""
        sae = cls.from_pretrained(release, sae_id, device, backend, **options)
        return sae, sae.cfg.to_dict(), sae.sparsity

    @classmethod
    def load_from_disk(
        cls, path: str | os.PathLike, device: Any = None, backend: str | None = None, **options: Any
    ) -> SAE:
        """An SAE from its folder, of SAELens's format or any other that `mlxterp.SAE.load` reads.

        `device` and `backend` are those of `from_pretrained`.

        Raises:
            SAEError: There is none, or it is damaged.
            InputError: An option that cannot be honoured.
        """
        _refuse(options)
        wing, place = _wing(backend, device)
        return cls(ours.SAE.load(path, backend=wing, device=place))

    @classmethod
    def load_from_pretrained(
        cls, path: str | os.PathLike, device: Any = None, backend: str | None = None, **options: Any
    ) -> SAE:
        """The name of `load_from_disk` before version 6."""
        return cls.load_from_disk(path, device, backend, **options)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def W_enc(self) -> Array:
        """Native float32, (d_in, d_sae)."""
        return self._weights.W_enc

    @property
    def b_enc(self) -> Array:
        """Native float32, (d_sae,)."""
        return self._weights.b_enc

    @property
    def W_dec(self) -> Array:
        """Native float32, (d_sae, d_out); row f is what latent f adds."""
        return self._weights.W_dec

    @property
    def b_dec(self) -> Array:
        """Native float32, (d_out,)."""
        return self._weights.b_dec

    @property
    def threshold(self) -> Array:
        """Native float32, (d_sae,), of a JumpReLU SAE.

        Raises:
            SAEError: It is of another architecture.
        """
        found = self._weights.extra.get("threshold")
        if found is None:
            raise SAEError(
                f"An SAE of architecture {self.cfg.architecture} has no threshold; JumpReLU SAEs do."
            )
        return found

    @property
    def device(self) -> str:
        """Where its weights lie."""
        return get_backend(self.sae.backend).device(self._weights.b_dec)

    @property
    def _weights(self) -> SAEWeights:
        if self._native is None:
            nothing = np.zeros((1, self.sae.d_model), np.float32)  # goes where NumPy input is computed
            self._native = self.sae.apply(nothing, check=False).weights
        return self._native

    def get_name(self) -> str:
        """Model, hook and number of latents in one name."""
        return f"sae_{self.cfg.metadata.model_name}_{self.cfg.hook_name}_{self.cfg.d_sae}"

    def __repr__(self) -> str:
        return f"<SAELens view of {self.sae!r}>"

    # -- features and back --------------------------------------------------------------------

    def encode(self, x: Array) -> Array:
        """Latents (…, d_sae), float32, of activations (…, d_in), or (…, heads, d_head) at `hook_z`.

        Native arrays in, native out, of the same library; NumPy in, NumPy out.

        Raises:
            SAEError: Another width, or values that are not finite.
        """
        split = self.sae.form.heads and x.ndim > 1 and int(x.shape[-1]) != self.cfg.d_in
        self._heads = tuple(x.shape[-2:]) if split else ()
        self._like = x if self.sae.needs_input else None
        return self.sae.encode(x)

    def decode(self, feature_acts: Array) -> Array:
        """Reconstruction (…, d_out), float32, of latents (…, d_sae).

        An SAE that normalises each token, has a skip connection or takes heads undoes that with what was encoded
        last, as SAELens does.

        Raises:
            SAEError: The latents are not this SAE's, or nothing (or something of another shape) was encoded before.
        """
        if self.sae.needs_input and self._like is None:
            raise SAEError("This SAE's reconstruction depends on what was encoded. Call encode(x) first.")
        if self._like is not None:
            return self.sae.decode(feature_acts, like=self._like)
        out = self.sae.decode(feature_acts)
        return out.reshape((*out.shape[:-1], *self._heads)) if self._heads else out

    def forward(self, x: Array) -> Array:
        """The reconstruction of activations; with `use_error_term`, what it misses is added again."""
        out = self.sae.reconstruct(x)
        if not self.use_error_term:
            return out
        if tuple(out.shape) != tuple(x.shape):
            raise SAEError(
                "The error term of a transcoder needs its target. Attach it to a model: model.add_sae(sae)."
            )
        return out + (x - out)

    def __call__(self, x: Array) -> Array:
        """See `forward`."""
        return self.forward(x)

    # -- where it is --------------------------------------------------------------------------

    def to(self, device: Any = None, **options: Any) -> SAE:
        """The same SAE with weights on another device of torch; itself for MLX.

        Raises:
            InputError: Another dtype than float32 is asked for.
        """
        _refuse(options)
        _, place = _wing(self.sae.backend, device)
        return self if place is None else SAE(self.sae.on(self.sae.backend, place), self.use_error_term)

    def eval(self) -> SAE:
        """Itself: SAEs do not train here."""
        return self

    def save_model(self, path: str | os.PathLike) -> Path:
        """Writes what SAELens 6 opens with `SAE.load_from_disk`; returns the folder. See `mlxterp.SAE.save`."""
        return self.sae.save(path, format="saelens")

    # -- the tuple of before version 6 ----------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        return iter((self, self.cfg.to_dict(), self.sparsity))

    def __getitem__(self, index: int) -> Any:
        return (self, self.cfg.to_dict(), self.sparsity)[index]

    def __len__(self) -> int:
        return 3

    def __bool__(self) -> bool:
        return True


def as_compat(sae: Any) -> SAE:
    """An SAE of either kind, as SAELens's users call it."""
    if isinstance(sae, ours.SAE):
        return SAE(sae)
    if not isinstance(sae, SAE):
        raise InputError(
            f"Expected an SAE of mlxterp or mlxterp.compat.saelens, got {type(sae).__name__}. For one of SAELens:"
            " sae.save_model(folder), then SAE.load_from_disk(folder)."
        )
    return sae


def one_place_only(what: str, device: Any) -> None:
    """Says once that MLX has no devices to choose from."""
    if device is not None and str(device) != "mlx" and what not in _TOLD:
        _TOLD.add(what)
        warn(
            f"device={str(device)!r} is not used: MLX computes {what} on its default device (mx.set_default_device)."
        )


def _wing(backend: str | None, device: Any) -> tuple[str, str | None]:
    """Library and device: `backend` decides where it is given, else the device's name."""
    if backend is None:
        return wing_for(device)
    if get_backend(backend).name == "mlx":
        return "mlx", one_place_only("SAEs", device)
    return backend, None if device is None else str(device)


def _refuse(options: dict[str, Any]) -> None:
    """Takes options whose value changes nothing here."""
    fine = {"dtype": ("float32", "torch.float32", "None"), "force_download": ("False",), "fold_W_dec_norm": ("False",),
            "converter": ("None",)}  # fmt: skip
    for name, value in options.items():
        if str(value) not in fine.get(name, ()):
            raise InputError(
                f"{name}={value!r} cannot be honoured: SAEs are float32 here and files are read by their format."
                " Leave it out."
            )
