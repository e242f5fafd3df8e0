"""A bundle that has never seen the test users: found in a registry, or trained into it."""

from __future__ import annotations

from tandem_core.bundle import Bundle, load_bundle
from tandem_core.errors import BundleRefused
from tandem_core.registry import Registry
from tandem_trainer.config import SplitSettings, TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.inputs import fingerprint, split_data
from tandem_trainer.progress import Progress
from tandem_trainer.ranker_step import differs_in_ranker_alone, with_ranker_anew
from tandem_trainer.train import train

MOST_USERS = 500  # as many as the paper held out
SHARE = 0.15  # of all users where that is fewer: as many again are held out for validation


def config_for(config: TrainConfig, dataset: Dataset, users: int | None) -> TrainConfig:
    """Return the settings of the half-split protocol: whole users held out, a random half of each one's events known.

    users: held-out test users; None takes 500, or 15 % of all where that is fewer.
    """
    wanted = users if users is not None else max(1, min(MOST_USERS, int(SHARE * len(dataset.users))))
    return config.model_copy(
        update={"split": SplitSettings(protocol="user_disjoint", test_users=wanted, shuffle_history=True)}
    )


def find_or_train(config: TrainConfig, dataset: Dataset, registry: Registry, progress: Progress) -> Bundle:
    """Return the registry's current bundle where it was trained with these settings on these events, or a new one.

    Where only the ranker's settings differ, only the ranker is trained anew.
    """
    config = config.model_copy(update={"refit": False})  # who measures must not have seen the test events
    current = registry.current()
    try:
        bundle = None if current is None else load_bundle(registry.path_of(current.bundle_id))
    except BundleRefused:  # written by another version: this registry is a cache, so make it anew
        bundle = None
    if bundle is not None:
        same_data = bundle.manifest.data.fingerprint == fingerprint(dataset.events)
        if same_data and bundle.manifest.config == config.model_dump(mode="json"):
            return bundle
        if same_data and differs_in_ranker_alone(bundle.manifest, config):
            split = split_data(config, dataset)
            return load_bundle(
                registry.path_of(with_ranker_anew(bundle.id, registry, config, dataset, split, progress))
            )
    return load_bundle(registry.path_of(train(config, dataset, registry, progress).bundle_id))
