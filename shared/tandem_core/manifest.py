"""The manifest: what a bundle holds, how it was made, and the hashes that say it is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from tandem_core.errors import BundleRefused
from tandem_core.features import FeatureSchema

FORMAT = 4
MANIFEST_NAME = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file: its size in bytes and sha256 in hex."""

    size: int
    sha256: str


class DataInfo(_Part):
    """What the models were fitted on. Times in milliseconds since 1970; fingerprint: sha256 of the event table."""

    name: str
    fingerprint: str
    events: int
    users: int
    items: int
    first_event_ms: int
    last_event_ms: int


class SplitInfo(_Part):
    """How the data was cut before fitting; evaluating by another protocol would leak.

    refit: what was chosen and measured on the cut was then fitted on all events, the held-out ones too.
    """

    protocol: str
    seed: int
    detail: dict[str, Any]
    refit: bool = False


class IndexInfo(_Part):
    """How one index searches. kind: "exact", "ivf" or "hnsw"; probes belongs to ivf alone, ef, m and ef_construction to
    hnsw alone, and are None elsewhere.

    recall: share of the `recall_at` best items (all, where there are fewer) that a search finds, against exact search
    on real queries, measured at export; None: not measured. microseconds: kind -> CPU time of one search at export, of
    all kinds that met the least recall; empty: not timed.
    """

    kind: str
    probes: int | None = None
    ef: int | None = None
    m: int | None = None
    ef_construction: int | None = None
    recall: float | None = None
    recall_at: int | None = None
    microseconds: dict[str, float] = {}


class AlsInfo(_Part):
    """Constants of the fold-in; see `sources.als.Als`."""

    alpha: float
    regularization: float
    half_life: float


class HalfLife(_Part):
    """How fast a source forgets: in events, of the history when asked."""

    half_life: float


class FreshInfo(_Part):
    """Constants of `sources.fresh.Fresh`."""

    max_age_days: float


class SearchInfo(_Part):
    """BM25's constants; they are part of the index's weights already, and stand here to be known."""

    k1: float
    b: float


class PlanEntry(_Part):
    """What one source is asked for and what its word weighs."""

    source: str
    limit: int
    weight: float
    quota: int = 0


class BlendInfo(_Part):
    """Weights of a learned merge; see `blend.BlendWeights`."""

    top: dict[str, float]
    pool: dict[str, float]
    head: int


UNCERTAINTY = "uncertainty"  # the head that says how far the ranker's models lie apart in an item's score


class RankerHead(_Part):
    """One answer of the ranker: whether an event of these types (of at least that value) follows; value: which value
    such an event has. That of no event types is the deviation of the score, see UNCERTAINTY.
    """

    name: str
    event_types: tuple[str, ...] = ()
    least_value: float | None = None
    value: bool = False


class Golden(_Part):
    """A query whose answer is known: the loader asks it before the bundle may serve.

    history: catalogue rows, newest first. context: facts of the request. expected: the user vector torch gave.
    """

    history: list[int]
    user_attributes: dict[str, str]
    context: dict[str, str] = {}
    now_ms: int
    expected: list[float]

    @model_serializer(mode="wrap")
    def _without_an_empty_context(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Versions from before there was any read such a manifest too.
        fields: dict[str, Any] = serialize(self)
        return {name: each for name, each in fields.items() if name != "context" or each}


class Manifest(_Part):
    """Everything known of a bundle without opening its files."""

    format: int
    bundle_id: str
    created_ms: int
    data: DataInfo
    split: SplitInfo
    config: dict[str, Any]
    schema_digest: str
    features: FeatureSchema
    ranker_features: list[str]
    ranker_heads: list[RankerHead] = []
    ranker_helps: bool  # on held-out requests its order was better beyond chance; policies may overrule it
    text_encoder: str | None = None  # sha256 of the ONNX file whose vectors are in the content; None: of words alone
    indexes: dict[str, IndexInfo]
    als: AlsInfo
    item_to_item: HalfLife
    content_neighbours: HalfLife  # of content_cold too
    fresh: FreshInfo
    search: SearchInfo
    plans: dict[str, list[PlanEntry]]  # regime name in lower case -> sources
    blends: dict[str, BlendInfo]  # regime name in lower case; a regime that is not there merges by rank
    goldens: list[Golden]
    metrics: dict[str, float]
    files: dict[str, FileEntry]


class _OnlyFormat(BaseModel):
    format: int


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest; raises BundleRefused saying what is wrong."""
    path = folder / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleRefused(f"{path} does not exist: the bundle is not whole") from error
    _check_format(path, content)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleRefused(f"{path} is not a manifest of format {FORMAT}: {where}: {first['msg']}") from error
    if manifest.features.digest() != manifest.schema_digest:
        raise BundleRefused(f"{path}: the feature schema does not have its recorded digest")
    return manifest


def _check_format(path: Path, content: bytes) -> None:
    """Look at the format first: what else a manifest of another format lacks or has is of no interest."""
    try:
        found = _OnlyFormat.model_validate_json(content).format
    except ValidationError:
        return  # not even that: what is wrong with it is said when all of it is read
    if found < FORMAT:
        raise BundleRefused(
            f"{path} has format {found}; this version reads {FORMAT}. It was made by an older version: train again "
            "(tandem train), or serve it with the version that made it"
        )
    if found > FORMAT:
        raise BundleRefused(f"{path} has format {found}; this version reads {FORMAT}: serve it with a newer version")


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and hash; raises BundleRefused naming the first that differs."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleRefused(f"{path} is missing")
        if path.stat().st_size != entry.size:
            raise BundleRefused(f"{path} has {path.stat().st_size} bytes, the manifest says {entry.size}")
        if sha256_of(path) != entry.sha256:
            raise BundleRefused(f"{path} does not have the sha256 that the manifest says: it was changed or damaged")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
