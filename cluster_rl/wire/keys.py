"""CURVE keys of one run: made once, kept in `keys/` of the run directory, loaded only if nobody else can read them.

The learner makes and loads them, the actors load them. With `curve` off there are none, on loopback.
docs/security.md says what they protect.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator

from cluster_rl.errors import UserError
from cluster_rl.runs.atomic import explain_os_error, remove_temporaries, write_atomic
from cluster_rl.runs.crash_points import crash_point
from cluster_rl.runs.small_file import UnreadableError, Version, damaged, decode_json, read_bytes_and_mode

LEARNER_FILE = "learner.json"
ACTORS_FILE = "actors.json"
SCHEMA_VERSION = 1
# Named in ZAP requests; with ZMQ_ZAP_ENFORCE_DOMAIN a socket whose authenticator is gone lets nobody in.
ZAP_DOMAIN = "cluster_rl"
_MAX_TOLD = 100  # refused keys that are named; a scanner must not fill the log

Z85Key = Annotated[str, msgspec.Meta(min_length=40, max_length=40)]


class KeyPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One CURVE key pair in Z85, for the learner the public keys it lets in, and the id of the run."""

    public: Z85Key
    secret: Z85Key
    allowed: list[Z85Key] = []
    run_id: str = ""  # empty in files of older programs
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        # A secret must not reach a log through a traceback or a debug print.
        return f"KeyPair(public={self.public!r}, secret=..., allowed={self.allowed!r})"


def make_keys(folder: Path, run_id: str = "") -> None:
    """Makes the run's `learner.json` and `actors.json` in `folder` (0700, files 0600). Keys that are there are kept.

    All actors of a run share one pair. If only one of the files is there, as after a kill, both are made anew. Raises
    `UserError` if nothing can be written.
    """
    files = [folder / ACTORS_FILE, folder / LEARNER_FILE]
    if all(file.exists() for file in files):
        return
    learner_public, learner_secret = (key.decode() for key in zmq.curve_keypair())
    actors_public, actors_secret = (key.decode() for key in zmq.curve_keypair())
    learner = KeyPair(public=learner_public, secret=learner_secret, allowed=[actors_public], run_id=run_id)
    actors = KeyPair(public=actors_public, secret=actors_secret, run_id=run_id)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise explain_os_error(error, folder) from None
    remove_temporaries(folder)
    for file, pair in zip(files, (actors, learner), strict=True):
        # Created with 0600: at no time do the bytes lie in a file that others can read.
        write_atomic(file, msgspec.json.encode(pair), mode=0o600)
        crash_point("keys.between_files", file.name)


def learner_keys(folder: Path, needed: bool, run_id: str) -> KeyPair | None:
    """The learner's pair where it is `needed`, made if it is not there.

    Raises `UserError`, see `load_pair`, also for what the actors will load, and for keys of another run.
    """
    if not needed:
        return None
    make_keys(folder, run_id)
    pairs = {folder / LEARNER_FILE: load_learner_keys(folder), folder / ACTORS_FILE: load_actor_keys(folder)}
    for path, pair in pairs.items():
        if pair.run_id not in ("", run_id):
            raise UserError(
                f"key {path}: belongs to the run {pair.run_id!r}, this one is {run_id!r}; delete the folder for new "
                "keys"
            )
    return pairs[folder / LEARNER_FILE]


def load_learner_keys(folder: Path) -> KeyPair:
    """The learner's pair with the allowed public keys. Raises `UserError`, see `load_pair`."""
    return load_pair(folder / LEARNER_FILE)


def load_actor_keys(folder: Path) -> KeyPair:
    """The pair all actors of the run share. Raises `UserError`, see `load_pair`."""
    return load_pair(folder / ACTORS_FILE)


def load_pair(path: Path) -> KeyPair:
    """One key file. Raises `UserError` if it is missing, damaged, or readable or writable by anyone else."""
    try:
        data, mode = read_bytes_and_mode(path)
    except UnreadableError as error:
        raise UserError(f"key {error}; make keys before the run listens") from None
    if mode & 0o077:
        raise UserError(
            f"key {path}: others may read it (mode {mode:04o}), so these may be known; delete "
            "the folder for new ones, or give --curve false where the file system keeps no permissions"
        )
    try:
        pair = decode_json(data, KeyPair, path, Version("schema_version", SCHEMA_VERSION))
        try:
            derived = zmq.curve_public(pair.secret.encode()).decode()
        except (ValueError, zmq.ZMQError) as error:
            raise damaged(path, error) from None
    except UnreadableError as error:
        raise UserError(f"key {error}; delete the folder and make new keys") from None
    if derived != pair.public:
        raise UserError(f"key {path}: public and secret key do not belong together; make new keys")
    return pair


class KeyGate:
    """The ZAP authenticator of one context: lets in the allowed public keys and nobody else."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair) -> None:
        self._allowed = frozenset(key.encode() for key in keys.allowed)
        self._refused: set[bytes] = set()
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(ZAP_DOMAIN, credentials_provider=self)

    def callback(self, _domain: str, key: bytes) -> bool:
        """Asked by pyzmq, in its own thread, for each client: its public key in Z85. Says so once of each refused."""
        if key in self._allowed:
            return True
        if key not in self._refused and len(self._refused) < _MAX_TOLD:
            self._refused.add(key)
            print(f"refused: a client with a key that is not of this run ({key.decode(errors='replace')})", flush=True)
        return False

    def protect(self, socket: zmq.Socket[bytes], keys: KeyPair) -> None:
        """Makes `socket` a CURVE server that asks this gate. Before `bind`."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
        with contextlib.suppress(AttributeError):
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def close(self) -> None:
        """Stops the authenticator; after its socket is closed."""
        self._authenticator.stop()


def present_keys(socket: zmq.Socket[bytes], keys: KeyPair, server_public: str) -> None:
    """Makes `socket` a CURVE client of the learner whose public key is `server_public`. Before `connect`."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_public.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
