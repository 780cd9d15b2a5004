"""`trivium sign` and `trivium verify`. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trivium.cli.options import SIGNED_BY, check_signed, signatures
from trivium.errors import RecipeError

ARTIFACT = typer.Argument(metavar="ARTIFACT", help="An artifact's folder or link.", show_default=False)


def sign(
    artifact: Annotated[Path | None, ARTIFACT] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A private key of kind ed25519, as OpenSSH writes it; TRIVIUM_KEY_PASSPHRASE opens a locked one.",
            show_default=False,
        ),
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Make a key and stop: FILE is to be kept, FILE.pub to be given to others."
        ),
    ] = None,
) -> None:
    """Sign an artifact: its manifest, and by that every byte of its files. `serve` and `rollout serve` can ask for it.

    Examples:

      trivium sign --new-key release

      trivium sign runs/quickstart/release --key release

      trivium serve runs/quickstart/release --signed-by release.pub
    """
    if new_key is None and (artifact is None or key is None):
        raise RecipeError(
            "there has to be an artifact and a key, or --new-key", fix="trivium sign ARTIFACT --key FILE"
        )
    if new_key is not None:
        print(signatures().new_key(new_key))
    if artifact is not None and key is not None:
        signer = signatures().sign(artifact, key)
        print(f"{artifact} is signed by {signer.name} ({signer.fingerprint})")


def verify(
    artifact: Annotated[Path, ARTIFACT],
    signed_by: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The public keys that count: a line each.",
            envvar=SIGNED_BY,
            show_default=False,
        ),
    ],
) -> None:
    """Check that every byte of an artifact is what a key of yours signed. Exit code 4 where it is not.

    Example:

      trivium verify runs/quickstart/release --signed-by release.pub
    """
    print(f"{artifact} is whole and signed by {check_signed(artifact, signed_by)}")
