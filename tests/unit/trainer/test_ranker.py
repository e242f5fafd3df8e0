import numpy as np
import pytest
import torch

from tandem_trainer.ranker import Ranker, RankerSettings, RankingData, fit_ranker, ndcg_at, ranking_loss

SETTINGS = RankerSettings(epochs=8, hidden=(16,), cross_rank=4, learning_rate=0.02, groups_per_batch=8)


def planted(requests: int = 120, size: int = 20, seed: int = 0) -> RankingData:
    """One chosen candidate per request, likelier where the product of two columns is high; one column is constant."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(requests * size, 5)).astype(np.float32) * [1, 50, 1, 1, 0] + [0, 7, 0, 0, 3]
    signal = (features[:, 0] * (features[:, 1] - 7) / 50 * 3 + features[:, 2]).reshape(requests, size)
    labels = np.zeros((requests, size), np.float32)
    labels[np.arange(requests), (signal + rng.gumbel(size=signal.shape)).argmax(1)] = 1
    return RankingData(features.astype(np.float32), labels.ravel(), np.repeat(np.arange(requests), size))


@pytest.mark.parametrize("loss", ["pointwise", "listwise", "both"])
def test_the_ranker_finds_planted_signal(loss: str) -> None:
    data, held_out = planted(), planted(seed=1)
    settings = SETTINGS.model_copy(update={"loss": loss})
    fitted = fit_ranker(data.features, data.labels, data.groups, settings, seed=0, validation=held_out)
    shuffled = np.random.default_rng(0).normal(size=len(held_out.labels))
    by_chance = ndcg_at(10, shuffled, held_out.labels, held_out.groups)
    assert fitted.history[fitted.best_epoch]["ndcg@10"] > by_chance + 0.2


def test_a_constant_column_and_far_values_give_finite_scores() -> None:
    data = planted(20)
    model = fit_ranker(data.features, data.labels, data.groups, SETTINGS, seed=0).model
    far = torch.tensor([[1e30, -1e30, 0, 0, 1e30]])
    assert model(far).isfinite().all()


def test_the_same_seed_gives_the_same_bits() -> None:
    data = planted(40)
    one, same, other = (fit_ranker(data.features, data.labels, data.groups, SETTINGS, seed) for seed in (1, 1, 2))
    assert one.history == same.history
    assert one.history != other.history
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), same.model.parameters(), strict=True))


def test_the_best_epoch_is_kept_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = iter([0.5, 0.9, 0.2, 0.1, 0.0]), []

    def worse_after_the_second(model: Ranker, _: RankingData) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("tandem_trainer.ranker._evaluate", worse_after_the_second)
    data = planted(30)
    settings = SETTINGS.model_copy(update={"patience": 2})
    fitted = fit_ranker(data.features, data.labels, data.groups, settings, seed=0)
    assert (fitted.best_epoch, len(fitted.history)) == (1, 4)
    assert all(torch.equal(value, seen[1][name]) for name, value in fitted.model.state_dict().items())


def test_the_order_of_candidates_in_the_data_does_not_matter_to_ndcg() -> None:
    data = planted(10)
    scores = np.random.default_rng(0).normal(size=len(data.labels))
    order = np.random.default_rng(1).permutation(len(data.labels))
    mixed = ndcg_at(10, scores[order], data.labels[order], data.groups[order])
    assert mixed == pytest.approx(ndcg_at(10, scores, data.labels, data.groups))


def test_ndcg_of_a_known_order() -> None:
    scores, labels, groups = np.array([3.0, 2, 1, 5, 5]), np.array([0, 1, 1.0, 0, 0]), np.array([0, 0, 0, 1, 1])
    expected = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))  # request 1 has nothing chosen
    assert ndcg_at(10, scores, labels, groups) == pytest.approx(expected)
    assert ndcg_at(1, scores, labels, groups) == 0


def test_equal_scores_are_no_merit() -> None:
    assert ndcg_at(1, np.zeros(3), np.array([1.0, 0, 0]), np.zeros(3, int)) == 0


def test_listwise_loss_of_a_known_request_ignores_a_constant_and_huge_scores_do_not_overflow() -> None:
    labels, lengths = torch.tensor([1.0, 0, 0, 0, 1]), [3, 2]
    equal = ranking_loss(torch.zeros(5), labels, lengths, "listwise")
    assert equal.item() == pytest.approx((np.log(3) + np.log(2)) / 2)
    assert ranking_loss(torch.full((5,), 1e4), labels, lengths, "listwise").item() == pytest.approx(
        equal.item(), abs=1e-3
    )


def test_both_is_the_sum_of_the_losses() -> None:
    logits, labels = torch.randn(6), torch.tensor([1.0, 0, 0, 0, 1, 0])
    parts = [ranking_loss(logits, labels, [2, 4], kind) for kind in ("pointwise", "listwise", "both")]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])


def test_without_validation_whole_requests_are_held_out() -> None:
    data = planted(10)
    fitted = fit_ranker(data.features, data.labels, data.groups, SETTINGS, seed=0)
    assert all(0 <= metrics["ndcg@10"] <= 1 for metrics in fitted.history)


def test_nothing_chosen_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit_ranker(np.ones((3, 2), np.float32), np.zeros(3, np.float32), np.zeros(3, int), SETTINGS, seed=0)


def test_a_ranker_given_a_prior_column_starts_from_its_order() -> None:
    mean, std = torch.tensor([1.0, 5.0, 0.0]), torch.tensor([2.0, 3.0, 1.0])
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    model = Ranker(SETTINGS, mean, std, prior=1).eval()
    torch.testing.assert_close(model(features), features[:, 1] - 5)
