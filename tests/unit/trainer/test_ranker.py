"""The ranker's model, losses and fit, against formulas and planted signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tandem_core.scorer import OnnxScorer
from tandem_trainer.export import check_parity, to_onnx
from tandem_trainer.ranker import CrossLayer, EventAttention, Ranker, RankerSettings, ServedRanker
from tandem_trainer.ranker_calibration import Platt, Ramps
from tandem_trainer.ranker_fit import RankerInputs, RankingData, answers_of, fit_ranker
from tandem_trainer.ranker_loss import head_loss, ndcg_at, ndcg_by_request, ranking_loss

SETTINGS = RankerSettings(epochs=6, hidden=(16,), cross_rank=4, learning_rate=0.05, groups_per_batch=8, folds=2)


def planted(requests: int = 120, size: int = 20, seed: int = 0) -> RankingData:
    """One chosen candidate per request, likelier where the product of two columns is high; one column is constant."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(requests * size, 5)).astype(np.float32) * [1, 50, 1, 1, 0] + [0, 7, 0, 0, 3]
    signal = (features[:, 0] * (features[:, 1] - 7) / 50 * 3 + features[:, 2]).reshape(requests, size)
    labels = np.zeros((requests, size), np.float32)
    labels[np.arange(requests), (signal + rng.gumbel(size=signal.shape)).argmax(1)] = 1
    return RankingData(
        features.astype(np.float32),
        labels.ravel(),
        np.repeat(np.arange(requests), size),
        labels.reshape(-1, 1),
        np.ones(requests * size, np.float32),
        np.arange(requests),
    )


@pytest.mark.parametrize("loss", ["pointwise", "listwise", "both"])
def test_the_ranker_finds_planted_signal_in_requests_it_has_not_seen(loss: str) -> None:
    data = planted()
    fitted = fit_ranker(data, SETTINGS.model_copy(update={"loss": loss}), seed=0)
    shuffled = np.random.default_rng(0).normal(size=len(data.labels))
    by_chance = ndcg_at(10, shuffled, data.labels, data.groups)
    assert fitted.history[fitted.best_epoch]["ndcg@10"] > by_chance + 0.2
    assert ndcg_at(10, fitted.out_of_fold[:, 0], data.labels, data.groups) == pytest.approx(
        fitted.history[fitted.best_epoch]["ndcg@10"]
    )


def test_each_model_is_judged_on_users_it_was_not_trained_on() -> None:
    """Labels are noise: whoever was trained on them knows them, and nobody else."""
    data = planted(60)
    rng = np.random.default_rng(1)
    noise = rng.permutation(data.labels.reshape(60, 20), axis=1).ravel()
    # Two requests each: a user's other request must not give the answers away either.
    twice = RankingData(
        np.concatenate([data.features, data.features]),
        np.concatenate([noise, noise]),
        np.concatenate([data.groups, data.groups + 60]),
        np.concatenate([noise, noise])[:, None],
        np.ones(2 * len(noise), np.float32),
        np.concatenate([np.arange(60), np.arange(60)]),
    )
    fitted = fit_ranker(twice, SETTINGS.model_copy(update={"epochs": 30, "hidden": (64,), "dropout": 0}), seed=0)
    by_chance = ndcg_at(10, rng.normal(size=len(twice.labels)), twice.labels, twice.groups)
    assert max(each["ndcg@10"] for each in fitted.history) < by_chance + 0.12
    known = answers_of(fitted.model, twice.features)[:, 0]
    unseen = ndcg_at(10, fitted.out_of_fold[:, 0], twice.labels, twice.groups)
    assert ndcg_at(10, known, twice.labels, twice.groups) > unseen + 0.05


def test_heads_are_calibrated_and_saying_nothing_is_told_by_their_probabilities() -> None:
    data = planted(300)
    fitted = fit_ranker(data, SETTINGS, seed=0)
    said = answers_of(fitted.model, data.features)[:, 1]
    assert (said >= 0).all()
    assert (said <= 1).all()
    assert said.mean() == pytest.approx(1 / 20, rel=0.2)
    assert said[data.labels > 0].mean() > 2 * said[data.labels == 0].mean()


def test_hidden_source_columns_are_hidden_in_training_alone() -> None:
    """Column 2 alone says what is right; where it is always hidden, nothing of it is learned."""
    data = planted(100)
    chosen = data.features[:, 2].reshape(100, 20).argmax(1)
    labels = np.zeros((100, 20), np.float32)
    labels[np.arange(100), chosen] = 1
    data = RankingData(data.features, labels.ravel(), data.groups, labels.reshape(-1, 1), data.weights, data.users)
    inputs = RankerInputs(of_sources=np.array([False, False, True, False, False]), values=[False])
    seen, hidden = (fit_ranker(data, SETTINGS, 0, inputs, source_dropout=share) for share in (0.0, 0.999))
    best = [max(each["ndcg@10"] for each in fitted.history) for fitted in (seen, hidden)]
    assert best[0] > best[1] + 0.2


def test_a_constant_column_and_far_values_give_finite_scores() -> None:
    model = fit_ranker(planted(20), SETTINGS, seed=0).model
    assert model(torch.tensor([[1e30, -1e30, 0, 0, 1e30]])).isfinite().all()


def test_the_same_seed_gives_the_same_bits() -> None:
    data = planted(40)
    one, same, other = (fit_ranker(data, SETTINGS, seed) for seed in (1, 1, 2))
    assert one.history == same.history
    assert one.history != other.history
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), same.model.parameters(), strict=True))


def test_nothing_chosen_is_an_error() -> None:
    data = planted(3)
    nothing = RankingData(data.features, np.zeros_like(data.labels), data.groups, data.heads, data.weights, data.users)
    with pytest.raises(ValueError, match="at least one"):
        fit_ranker(nothing, SETTINGS, seed=0)


def test_a_cross_layer_is_the_papers_formula_in_low_rank() -> None:
    layer = CrossLayer(4, 2)
    rng = np.random.default_rng(0)
    x0, x = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    v, u, b = (p.detach().numpy() for p in (layer.down.weight, layer.up.weight, layer.up.bias))
    expected = x0 * (x @ v.T @ u.T + b) + x
    np.testing.assert_allclose(layer(torch.from_numpy(x0), torch.from_numpy(x)).detach(), expected, atol=1e-6)


def test_attention_is_a_weighted_mean_of_known_events_and_0_without_any() -> None:
    attention = EventAttention(kinds=3, events=4, dim=2)
    pairs = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[1.0, 1, 0, 0]]).expand(5, 4).clone()
    known[4] = 0
    got = attention(pairs, known)
    values, logits = attention.value(pairs), attention.weigh(pairs).squeeze(2) + attention.place
    weights = torch.softmax(logits[:, :2], dim=1)
    torch.testing.assert_close(got[:4], (weights[:4, :, None] * values[:4, :2]).sum(1))
    assert not got[4].any()
    changed = pairs.clone()
    changed[:, 2:] = 9
    torch.testing.assert_close(attention(changed, known), got)  # events that never were say nothing


def test_the_model_exported_scores_as_torch_does_and_heads_are_probabilities(tmp_path: Path) -> None:
    """With attention, two calibrated heads and a value head; 500 candidates in one call."""
    rng = np.random.default_rng(0)
    width = 3 + 2 * 5
    members = [
        Ranker(
            RankerSettings(), torch.zeros(width), torch.ones(width), heads=3, events=[[3, 4], [5, 6], [7, 8], [9, 10]]
        )
        for _ in range(2)
    ]
    ramps = Ramps(np.array([-1.0, 0, 2]), np.array([0.1, 0.1, 0.9]))
    model = ServedRanker(members, [ramps, Platt(0.5, -1.0), torch.nn.Identity()]).eval()
    shapes = [{"features": rng.normal(size=(n, width)).astype(np.float32)} for n in (4, 1, 500)]
    path = tmp_path / "ranker.onnx"
    to_onnx(model, shapes[0], "answers", path, {"features": {0: "candidates"}})
    assert check_parity(model, path, shapes) < 1e-4
    scorer = OnnxScorer(path, [str(i) for i in range(width)], ["click", "like", "stars", "uncertainty"])
    scorer.warm()
    scored = scorer.score(shapes[2]["features"])
    assert list(scored.heads) == ["click", "like", "stars", "uncertainty"]
    scores = [answers_of(member.eval(), shapes[2]["features"])[:, 0] for member in members]
    np.testing.assert_allclose(scored.heads["uncertainty"], np.std(scores, axis=0), atol=1e-4)
    for name in ("click", "like"):
        assert (scored.heads[name] > 0).all()
        assert (scored.heads[name] < 1).all()


def test_what_the_heads_learn_changes_nothing_of_the_order() -> None:
    """Two columns of answers, one with nothing in it to learn: the order is the same to the bit."""
    data = planted(40)
    other = RankingData(data.features, data.labels, data.groups, np.zeros_like(data.heads), data.weights, data.users)
    one, same = (fit_ranker(each, SETTINGS, seed=0).out_of_fold for each in (data, other))
    np.testing.assert_array_equal(one[:, 0], same[:, 0])
    assert (one[:, 1] != same[:, 1]).any()


def test_ndcg_of_a_known_order() -> None:
    scores, labels, groups = np.array([3.0, 2, 1, 5, 5]), np.array([0, 1, 1.0, 0, 0]), np.array([0, 0, 0, 1, 1])
    expected = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))  # request 1 has nothing chosen
    assert ndcg_at(10, scores, labels, groups) == pytest.approx(expected)
    assert ndcg_at(1, scores, labels, groups) == 0
    np.testing.assert_array_equal(np.isnan(ndcg_by_request(10, scores, labels, groups)), [False, True])


def test_a_candidate_that_stands_for_several_takes_as_many_places() -> None:
    scores, labels, groups = np.array([3.0, 2]), np.array([0, 1.0]), np.zeros(2, int)
    assert ndcg_at(10, scores, labels, groups, np.array([4.0, 1])) == pytest.approx(1 / np.log2(6))
    assert ndcg_at(4, scores, labels, groups, np.array([4.0, 1])) == 0


def test_equal_scores_are_no_merit() -> None:
    assert ndcg_at(1, np.zeros(3), np.array([1.0, 0, 0]), np.zeros(3, int)) == 0


def test_listwise_loss_of_a_known_request_ignores_a_constant_and_huge_scores_do_not_overflow() -> None:
    labels, lengths = torch.tensor([1.0, 0, 0, 0, 1]), [3, 2]
    equal = ranking_loss(torch.zeros(5), labels, lengths, "listwise")
    assert equal.item() == pytest.approx((np.log(3) + np.log(2)) / 2)
    assert ranking_loss(torch.full((5,), 1e4), labels, lengths, "listwise").item() == pytest.approx(
        equal.item(), abs=1e-3
    )


@pytest.mark.parametrize("kind", ["pointwise", "listwise"])
def test_a_weighted_candidate_costs_what_so_many_equal_ones_cost(kind: str) -> None:
    one = ranking_loss(torch.tensor([1.0, -0.5]), torch.tensor([1.0, 0]), [2], kind, torch.tensor([1.0, 3]))
    four = ranking_loss(torch.tensor([1.0, -0.5, -0.5, -0.5]), torch.tensor([1.0, 0, 0, 0]), [4], kind)
    torch.testing.assert_close(one, four)


def test_both_is_the_sum_of_the_losses() -> None:
    logits, labels = torch.randn(6), torch.tensor([1.0, 0, 0, 0, 1, 0])
    parts = [ranking_loss(logits, labels, [2, 4], kind) for kind in ("pointwise", "listwise", "both")]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])


def test_a_heads_loss_counts_what_is_known_and_values_by_their_square() -> None:
    answers = torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    truths = torch.tensor([[1.0, 5.0], [0.0, torch.nan]])
    loss = head_loss(answers, truths, [False, True], torch.ones(2), requests=1)
    assert loss.item() == pytest.approx((2 * np.log(2) + 1.0) / 2)


def test_a_ranker_given_a_prior_column_starts_from_its_order() -> None:
    mean, std = torch.tensor([1.0, 5.0, 0.0]), torch.tensor([2.0, 3.0, 1.0])
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    model = Ranker(SETTINGS, mean, std, heads=1, prior=1).eval()
    torch.testing.assert_close(model(features), (features[:, 1:2] - 5).expand(50, 2))
