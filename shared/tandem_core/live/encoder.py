"""From an item as its owner describes it to vectors in the space of one bundle, which never saw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.content_model import ContentModel, content_tokens, unit_rows
from tandem_core.errors import BundleRefused
from tandem_core.features import FeatureSchema
from tandem_core.manifest import Manifest, read_manifest, sha256_of
from tandem_core.onnx_session import open_session
from tandem_core.stores.live import Encoding, LiveItem

CONTENT_MODEL = "content_model.npz"
TEXT_ENCODER = "text_encoder.onnx"
_NEEDED = ("catalog.npz", "item_tower.onnx", CONTENT_MODEL)


class ItemEncoder:
    """The item tower with the id left out, and the bundle's own vocabulary of words and columns.

    What only tables can bring (vector columns) is zero. Opened by `load`; safe to use from several threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        catalog: Catalog,
        words: ContentModel,
        tower: onnxruntime.InferenceSession,
        text_encoder: onnxruntime.InferenceSession | None,
    ) -> None:
        self.id = manifest.bundle_id
        self.catalog = catalog
        self._created_ms = manifest.created_ms
        self._schema: FeatureSchema = manifest.features
        self._words = words
        self._tower = tower
        self._inputs = {node.name for node in tower.get_inputs()}
        self._encoder = text_encoder

    @classmethod
    def load(cls, folder: Path) -> ItemEncoder:
        """Open a bundle's parts; raises BundleRefused saying what is wrong."""
        manifest = read_manifest(folder)
        names = [*_NEEDED, *([TEXT_ENCODER] if manifest.text_encoder else [])]
        for name in names:
            if name not in manifest.files:
                raise BundleRefused(f"{folder} has no {name}: items can not be added to it; train it again")
            if sha256_of(folder / name) != manifest.files[name].sha256:
                raise BundleRefused(f"{folder / name} does not have the sha256 that the manifest says")
        try:
            return cls(
                manifest,
                Catalog.load(folder / "catalog.npz"),
                ContentModel.load(folder / CONTENT_MODEL),
                open_session(folder / "item_tower.onnx"),
                open_session(folder / TEXT_ENCODER) if manifest.text_encoder else None,
            )
        except Exception as error:  # a damaged file fails in as many ways as there are readers
            raise BundleRefused(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error

    def encode(self, items: Sequence[LiveItem]) -> list[Encoding]:
        """Return each item's vectors, both of unit length; content is zero where no word is known."""
        if not items:
            return []
        content = self._content(items)
        inputs = {
            "item_index": np.zeros(len(items), np.int64),
            "content": content,
            "numbers": np.array(
                [[item.numbers.get(name, np.nan) for name in self._schema.item_numbers] for item in items], np.float32
            ).reshape(len(items), len(self._schema.item_numbers)),
        }
        inputs |= {f"codes_{name}": self._codes(name, items) for name in self._schema.item_codes}
        (vectors,) = self._tower.run(None, {name: inputs[name] for name in self._inputs})
        return [Encoding(vector, text) for vector, text in zip(vectors, content, strict=True)]

    def holds(self, item: LiveItem, changed_ms: int) -> bool:
        """Return whether the bundle was made after the change and knows the item by the same columns.

        The text is not compared: a bundle keeps none.
        """
        row = self.catalog.row_of.get(item.item_id)
        if row is None or self._created_ms < changed_ms or self.catalog.titles[row] != item.title:
            return False
        for name, column in self.catalog.codes.items():
            if column.values(row) != list(dict.fromkeys(item.codes.get(name, ())))[: column.codes.shape[1]]:
                return False
        return all(
            np.isclose(column[row], item.numbers.get(name, np.nan), rtol=1e-9, equal_nan=True)
            for name, column in self.catalog.numbers.items()
        )

    def _content(self, items: Sequence[LiveItem]) -> NDArray[np.float32]:
        creators = [next(iter(item.codes.get("creator", ())), None) for item in items]
        categories = [item.codes.get("categories", ()) for item in items]
        documents = [
            content_tokens(item.title, item.text, codes, creator)
            for item, codes, creator in zip(items, categories, creators, strict=True)
        ]
        content = self._words.encode(documents)
        if self._encoder is not None:
            texts = [
                " ".join(filter(None, [item.title, item.text, *codes, creator]))
                for item, codes, creator in zip(items, categories, creators, strict=True)
            ]
            content = unit_rows(np.hstack([content, unit_rows(_encoded(self._encoder, texts))]))
        padded = np.zeros((len(items), self._words.dims), np.float32)
        padded[:, : content.shape[1]] = content
        return padded

    def _codes(self, name: str, items: Sequence[LiveItem]) -> NDArray[np.int64]:
        """Return int64 [n, C], code + 1; texts that came after training have no embedding and count as none."""
        column = self.catalog.codes[name]
        codes = np.zeros((len(items), column.codes.shape[1]), np.int64)
        for i, item in enumerate(items):
            known = [column.code_of[text] + 1 for text in item.codes.get(name, ()) if text in column.code_of]
            codes[i, : len(known)] = known[: codes.shape[1]]
        return codes


def _encoded(encoder: onnxruntime.InferenceSession, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return float32 [n, T], zero for a blank text, as in training."""
    (found,) = encoder.run(None, {encoder.get_inputs()[0].name: np.array(texts, object)})
    blank = np.array([not text.strip() for text in texts])
    return np.where(blank[:, None], np.float32(0), np.asarray(found, np.float32))
