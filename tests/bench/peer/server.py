"""The peer: the same recommender as a good engineer would write it in a day. Frozen: it is what we compare with.

One gRPC service in one process; items are string ids and dicts, candidates are lists of dicts, loops go over items.
Engines are those of the bundle: the same ONNX files, the same index and its parameters, the same SQLite query, numpy
for products of vectors. Rules and numbers are those of the default placement. Nothing of it is shipped.

    python server.py --bundle FOLDER --store store.db --port 50060 [--naive-mmr]
    python server.py --bundle FOLDER --store store.db --profile USER
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import pstats
import signal
import sqlite3
import statistics
import threading
import time
import uuid
from collections import defaultdict
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core.bundle import open_index
from tandem_core.manifest import read_manifest

CANDIDATES = 500
RECENT = 10
MMR_LAMBDA, MMR_POOL = 0.97, 100
RECENCY_WEIGHT, RECENCY_DAYS = 0.02, 30.0
COLD_NEIGHBOURS = 5
POPULARITY_BLEND = {"warm": 0.0, "few_events": 0.2, "profile_only": 0.6, "unknown": 1.0}
REGIMES = {"warm": 1, "few_events": 2, "profile_only": 3, "unknown": 4}
EVENTS = "SELECT item_id, timestamp_ms, event_type FROM events WHERE user_id = ? ORDER BY timestamp_ms DESC, seq DESC"
DAY_MS = 86_400_000


def strings(arrays, name):
    blob, ends = arrays[f"{name}.utf8"].tobytes(), arrays[f"{name}.ends"].tolist()
    return [blob[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Recommender:
    def __init__(self, folder: Path, store: Path, *, naive_mmr: bool) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.features = self.manifest["features"]
        self.naive_mmr, self.store, self.local = naive_mmr, store, threading.local()
        self.load_items(folder)
        self.load_sources(folder)
        self.tower, self.ranker = session(folder / "user_tower.onnx"), session(folder / "ranker.onnx")
        self.tower_inputs = {node.name for node in self.tower.get_inputs()}
        self.type_code = {t["name"]: i for i, t in enumerate(self.features["event_types"], start=1)}
        self.type_weight = {t["name"]: t["weight"] for t in self.features["event_types"]}

    def load_items(self, folder):
        arrays = np.load(folder / "catalog.npz")
        self.ids = strings(arrays, "item_ids")
        self.row = {item_id: row for row, item_id in enumerate(self.ids)}
        titles, counts = strings(arrays, "titles"), arrays["event_counts"].tolist()
        self.items: dict[str, dict[str, Any]] = {
            item_id: {"title": titles[row], "events": counts[row]} for row, item_id in enumerate(self.ids)
        }
        for key in arrays.files:
            kind, _, name = key.partition(":")
            if kind == "number":
                for item, value in zip(self.items.values(), arrays[key].tolist(), strict=True):
                    item[name] = value
            if kind == "code":
                words = strings(arrays, f"vocabulary:{name}")
                for item, codes in zip(self.items.values(), arrays[key].tolist(), strict=True):
                    item[name] = [words[code] for code in codes if code >= 0]
        born = np.load(folder / "born_ms.npy").tolist()
        for item, value in zip(self.items.values(), born, strict=True):
            item["born_ms"] = value
        self.newest = sorted(
            (i for i in self.ids if self.items[i]["born_ms"] > 0), key=lambda i: -self.items[i]["born_ms"]
        )
        self.vectors, self.content = np.load(folder / "item_vectors.npy"), np.load(folder / "content_vectors.npy")
        self.most_events = max(counts)

    def load_sources(self, folder):
        manifest = read_manifest(folder)
        self.factors = np.load(folder / "als_factors.npy")
        self.gram = self.factors.T @ self.factors + manifest.als.regularization * np.eye(self.factors.shape[1])
        self.index = {
            name: open_index(folder, name, manifest, vectors)
            for name, vectors in (("two_tower", self.vectors), ("als", self.factors), ("content", self.content))
        }
        arrays = np.load(folder / "popularity.npz")
        ends = [0, *arrays["ends"].tolist()]
        rows, scores = arrays["rows"].tolist(), arrays["scores"].tolist()
        self.popular = {}
        for key, a, b in zip(strings(arrays, "keys"), ends[:-1], ends[1:], strict=True):
            self.popular[key] = [(self.ids[row], score) for row, score in zip(rows[a:b], scores[a:b], strict=True)]
        arrays = np.load(folder / "item_to_item.npz")
        self.next_bounds, self.next_columns, self.next_values = (arrays[n] for n in ("indptr", "columns", "values"))
        self.cold = np.load(folder / "cold_items.npz") if (folder / "cold_items.npz").exists() else None
        if self.cold is not None:
            self.cold = {name: self.cold[name] for name in self.cold.files}
            self.anchor = {self.ids[row]: i for i, row in enumerate(self.cold["anchor_rows"].tolist())}

    def recommend(self, user_id: str, count: int, now_ms: int) -> list[dict[str, Any]]:
        history, seen = self.history(user_id, now_ms)
        regime = "warm" if len(history) >= 5 else "few_events" if history else "unknown"
        found = self.find(regime, history, seen, now_ms)
        candidates = self.merge(found, regime)
        self.score(candidates, history, regime, now_ms)
        self.adjust(candidates, regime, now_ms)
        candidates.sort(key=lambda c: -c["score"])
        best = self.diverse_naive(candidates, count) if self.naive_mmr else self.diverse(candidates, count)
        self.explain(best, history)
        return best

    def history(self, user_id, now_ms):
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = sqlite3.connect(self.store)
        history, seen = [], set()
        for item_id, timestamp, kind in connection.execute(EVENTS, (user_id,)):
            seen.add(item_id)
            weight = self.type_weight.get(kind, 1.0)
            if item_id in self.row and weight > 0:
                event = {"id": item_id, "time": timestamp, "type": self.type_code.get(kind, 0), "weight": weight}
                history.append(event)
        return history, seen

    def find(self, regime, history, seen, now_ms):
        found = {}
        for plan in self.manifest["plans"][regime]:
            name, limit = plan["source"], plan["limit"]
            if name == "two_tower":
                pairs = self.near("two_tower", self.user_vector(history, now_ms), limit, seen)
            elif name == "als" and history:
                pairs = self.near("als", self.fold_in(history), limit, seen)
            elif name == "item_to_item":
                pairs = self.next_items(history, limit, seen)
            elif name == "cold_items":
                pairs = self.cold_items(history, limit, seen)
            elif name == "fresh":
                oldest = now_ms - self.manifest["fresh"]["max_age_days"] * DAY_MS
                pairs = []
                for item_id in self.newest:
                    if self.items[item_id]["born_ms"] < oldest or len(pairs) == limit:
                        break
                    if item_id not in seen and self.items[item_id]["born_ms"] <= now_ms:
                        pairs.append((item_id, (self.items[item_id]["born_ms"] - oldest) / (now_ms - oldest)))
            else:
                pairs = self.popular_items(name, history, limit, seen)
            if pairs:
                found[name] = pairs
        return found

    def user_vector(self, history, now_ms):
        newest = history[: self.features["history_length"]]
        length = max(1, len(newest))
        inputs = {
            "history_vectors": np.zeros((1, length, self.vectors.shape[1]), np.float32),
            "history_mask": np.zeros((1, length), np.float32),
            "history_types": np.zeros((1, length), np.int64),
            "history_ages": np.zeros((1, length), np.int64),
            "user_attributes": np.zeros((1, len(self.features["user_attributes"])), np.int64),
            "context": np.array([self.context(now_ms)], np.int64),
        }
        for i, event in enumerate(newest):
            inputs["history_vectors"][0, i] = self.vectors[self.row[event["id"]]]
            inputs["history_mask"][0, i] = 1
            inputs["history_types"][0, i] = event["type"]
            inputs["history_ages"][0, i] = max(newest[0]["time"] - event["time"], 0)
        return self.tower.run(None, {n: v for n, v in inputs.items() if n in self.tower_inputs})[0][0]

    def context(self, now_ms):
        codes = [now_ms // 3_600_000 % 24 + 1, now_ms // DAY_MS % 7 + 1]
        return [*codes, time.gmtime(now_ms / 1000).tm_mon] if self.features.get("season") else codes

    def near(self, name, query, limit, seen):
        rows, scores = self.index[name].search(query, min(limit + len(seen), len(self.ids)))
        pairs = []
        for row, score in zip(rows, scores, strict=True):
            if self.ids[row] not in seen and len(pairs) < limit:
                pairs.append((self.ids[row], float(score)))
        return pairs

    def fold_in(self, history):
        als, confidence = self.manifest["als"], defaultdict(float)
        for i, event in enumerate(history):
            confidence[event["id"]] += als["alpha"] * event["weight"] * 0.5 ** (i / als["half_life"])
        factors = self.factors[[self.row[item_id] for item_id in confidence]]
        weights = np.array(list(confidence.values()))
        left = self.gram + (factors.T * (weights - 1)) @ factors
        return np.linalg.solve(left, factors.T @ weights).astype(np.float32)

    def next_items(self, history, limit, seen):
        scores = defaultdict(float)
        for i, event in enumerate(history):
            weight = event["weight"] * 0.5 ** (i / self.manifest["item_to_item"]["half_life"])
            a, b = self.next_bounds[self.row[event["id"]] : self.row[event["id"]] + 2]
            for column, value in zip(self.next_columns[a:b].tolist(), self.next_values[a:b].tolist(), strict=True):
                scores[self.ids[column]] += weight * value
        pairs = [(item_id, score) for item_id, score in scores.items() if score > 0 and item_id not in seen]
        return sorted(pairs, key=lambda pair: -pair[1])[:limit]

    def cold_items(self, history, limit, seen):
        anchors = [(self.anchor[e["id"]], 0.5**i) for i, e in enumerate(history) if e["id"] in self.anchor]
        if self.cold is None or not anchors:
            return []
        weights = np.array([weight for _, weight in anchors], np.float32)
        taste = (weights / weights.sum()) @ self.cold["anchor_vectors"][[anchor for anchor, _ in anchors]]
        scores = self.cold["item_vectors"] @ taste
        pairs = []
        for i in np.argsort(-scores)[: limit + len(seen)]:
            item_id = self.ids[self.cold["item_rows"][i]]
            if item_id not in seen and len(pairs) < limit:
                pairs.append((item_id, float(scores[i])))
        return pairs

    def popular_items(self, name, history, limit, seen):
        key = "global"
        if name.startswith("popularity_") and name.endswith("d"):
            key = f"window:{name.removeprefix('popularity_')[:-1]}"
        if name == "popularity_category" and history:
            liked = defaultdict(float)
            for event in history:
                for category in self.items[event["id"]].get("categories", []):
                    liked[category] += event["weight"]
            key = f"category:{max(liked, key=liked.__getitem__)}" if liked else key
        if name == "search":
            return []
        pairs = []
        for item_id, score in self.popular.get(key, []):
            if item_id not in seen:
                pairs.append((item_id, score))
            if len(pairs) == limit:
                break
        return pairs

    def merge(self, found, regime):
        union = {}
        for source, pairs in found.items():
            for rank, (item_id, score) in enumerate(pairs, start=1):
                union.setdefault(item_id, {"id": item_id, "sources": {}})["sources"][source] = (rank, score)
        candidates = list(union.values())
        blend = self.manifest["blends"].get(regime)
        weights = blend["top"] if blend else {p["source"]: p["weight"] for p in self.manifest["plans"][regime]}
        for candidate in candidates:
            candidate["score"] = 0.0
        for source, pairs in found.items():
            lowest = pairs[-1][1]
            scores = [c["sources"].get(source, (0, lowest))[1] for c in candidates]
            mean, spread = statistics.fmean(scores), statistics.pstdev(scores) or 1.0
            for candidate, score in zip(candidates, scores, strict=True):
                candidate["score"] += weights.get(source, 0.0) * (score - mean) / spread
        candidates.sort(key=lambda c: -c["score"])
        return candidates[:CANDIDATES]

    def score(self, candidates, history, regime, now_ms):
        recent = [self.row[event["id"]] for event in history[:RECENT]]
        taste, words = self.vectors[recent], self.content[recent]
        total = sum(event["weight"] for event in history) or 1.0
        shares = {}
        for column in ("categories", "creator"):
            shares[column] = defaultdict(float)
            for event in history:
                for code in self.items[event["id"]].get(column, []):
                    shares[column][code] += event["weight"] / total
        rows = []
        for place, candidate in enumerate(candidates):
            item, row = self.items[candidate["id"]], self.row[candidate["id"]]
            features = {"retrieval_place": -math.log1p(place), "log_events": math.log1p(item["events"])}
            for source, (rank, score) in candidate["sources"].items():
                features[f"reciprocal_rank:{source}"] = 1 / math.sqrt(rank)
                features[f"source_score:{source}"] = score
            if recent:
                alike, about = taste @ self.vectors[row], words @ self.content[row]
                features |= {"taste_mean": alike.mean(), "taste_max": alike.max(), "taste_newest": alike[0]}
                features |= {"content_mean": about.mean(), "content_max": about.max()}
            for column, name in (("categories", "category_affinity"), ("creator", "creator_affinity")):
                own = item.get(column, [])
                features[name] = sum(shares[column][code] for code in own) / max(len(own), 1)
            age = (now_ms / 1000 - item.get("created_at", math.nan)) / 86_400
            if not math.isnan(age):
                features |= {"log_age_days": math.log1p(max(age, 0)), "age_known": 1.0}
            features |= {"log_history": math.log1p(len(history)), f"regime_{regime}": 1.0}
            for name in self.features["item_numbers"]:
                features[f"number:{name}"] = 0.0 if math.isnan(item[name]) else item[name]
            rows.append([features.get(name, 0.0) for name in self.manifest["ranker_features"]])
        if rows:
            name = self.ranker.get_inputs()[0].name
            scores = self.ranker.run(None, {name: np.array(rows, np.float32)})[0].reshape(len(rows), -1)[:, 0]
            for candidate, score in zip(candidates, scores.tolist(), strict=True):
                candidate["score"] = score

    def adjust(self, candidates, regime, now_ms):
        low = min((c["score"] for c in candidates), default=0.0)
        high = max((c["score"] for c in candidates), default=0.0)
        blend = POPULARITY_BLEND[regime]
        for candidate in candidates:
            events = self.items[candidate["id"]]["events"]
            candidate["score"] = (candidate["score"] - low) / ((high - low) or 1.0)
            popular = math.log1p(events) / math.log1p(self.most_events)
            candidate["score"] = (1 - blend) * candidate["score"] + blend * popular
        cold = [c for c in candidates if self.items[c["id"]]["events"] < self.features["cold_item_events"]]
        warm = [c for c in candidates if self.items[c["id"]]["events"] >= self.features["cold_item_events"]]
        if cold and warm:
            known = self.content[[self.row[c["id"]] for c in warm]]
            for candidate in cold:
                alike = known @ self.content[self.row[candidate["id"]]]
                nearest = np.argsort(-alike)[:COLD_NEIGHBOURS]
                weights = np.maximum(alike[nearest], 0)
                borrowed = sum(w * warm[i]["score"] for i, w in zip(nearest, weights, strict=True))
                candidate["score"] = max(candidate["score"], borrowed / max(weights.sum(), 1e-9))
        for candidate in candidates:
            age = (now_ms / 1000 - self.items[candidate["id"]].get("created_at", math.nan)) / 86_400
            if not math.isnan(age):
                candidate["score"] += RECENCY_WEIGHT * 0.5 ** (max(age, 0) / RECENCY_DAYS)

    def diverse(self, candidates, count):
        pool = candidates[:MMR_POOL]
        vectors = self.vectors[[self.row[c["id"]] for c in pool]]
        relevance = np.array([c["score"] for c in pool])
        highest, chosen = np.zeros(len(pool)), []
        while len(chosen) < min(count, len(pool)):
            value = MMR_LAMBDA * relevance - (1 - MMR_LAMBDA) * highest
            value[chosen] = -np.inf
            chosen.append(int(value.argmax()))
            alike = vectors @ vectors[chosen[-1]]
            highest = alike if len(chosen) == 1 else np.maximum(highest, alike)
        return [pool[i] for i in chosen]

    def diverse_naive(self, candidates, count):
        left, chosen = candidates[:MMR_POOL], []
        while left and len(chosen) < count:
            best, best_value = None, -math.inf
            for candidate in left:
                own = self.vectors[self.row[candidate["id"]]]
                alike = max((float(np.dot(own, self.vectors[self.row[c["id"]]])) for c in chosen), default=0.0)
                value = MMR_LAMBDA * candidate["score"] - (1 - MMR_LAMBDA) * alike
                if value > best_value:
                    best, best_value = candidate, value
            left.remove(best)
            chosen.append(best)
        return chosen

    def explain(self, best, history):
        recent = [event["id"] for event in history[:RECENT]]
        vectors = self.vectors[[self.row[item_id] for item_id in recent]]
        for candidate in best:
            alike = vectors @ self.vectors[self.row[candidate["id"]]] if recent else np.zeros(1)
            candidate["because"] = recent[int(alike.argmax())] if recent and alike.max() > 0.6 else ""


class Servicer(ranking_pb2_grpc.RankingServiceServicer):
    def __init__(self, recommender):
        self.recommender = recommender

    def Recommend(self, request, context):
        request_id = request.context.request_id or uuid.uuid4().hex
        now_ms = request.context.event_time.ToMilliseconds() or int(time.time() * 1000)
        response = ranking_pb2.RecommendResponse(request_id=request_id, decision_id=request_id)
        found = self.recommender.recommend(request.context.user_id, request.max_results or 20, now_ms)
        for position, candidate in enumerate(found, start=1):
            item = response.items.add(item_id=candidate["id"], position=position, score=candidate["score"])
            if candidate["because"]:
                item.reasons.add(kind=ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM, item_id=candidate["because"])
            for source, (rank, score) in candidate["sources"].items():
                item.sources.add(source=source, rank=rank, score=score)
            for name in request.return_attributes:
                item.attributes.add(name=name, string_value=str(self.recommender.items[candidate["id"]].get(name, "")))
        return response


def main() -> None:
    parser = argparse.ArgumentParser(description="The peer that `tandem bench serve` compares with.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--naive-mmr", action="store_true")
    parser.add_argument("--profile", metavar="USER", help="print where 200 requests of this user spend their time")
    given = parser.parse_args()
    recommender = Recommender(given.bundle, given.store, naive_mmr=given.naive_mmr)
    if given.profile:
        now_ms = recommender.manifest["data"]["last_event_ms"]
        profiler = cProfile.Profile()
        recommender.recommend(given.profile, 20, now_ms)
        profiler.enable()
        for _ in range(200):
            recommender.recommend(given.profile, 20, now_ms)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(14)
        return
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(Servicer(recommender), server)
    server.add_insecure_port(f"127.0.0.1:{given.port}")
    server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(0))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
