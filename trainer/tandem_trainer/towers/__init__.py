"""The two towers: an item and a user each become a unit vector, and a dot product joins them.

The user tower reads the vectors of the user's items, not ids, so that an item added a second ago and a user never
trained on both work; the item tower works without the id.
"""

from tandem_trainer.towers.item_tower import ItemTower
from tandem_trainer.towers.joined import JoinedItemTowers, JoinedUserTowers
from tandem_trainer.towers.settings import TowerSettings
from tandem_trainer.towers.user_tower import UserTower

__all__ = ["ItemTower", "JoinedItemTowers", "JoinedUserTowers", "TowerSettings", "UserTower"]
